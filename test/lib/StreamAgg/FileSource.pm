# Sources of the kind of test/modules/file_source.c: directories with a file for each
# partition, to which a test appends.

package StreamAgg::FileSource;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(declare_file_source create_file_source append_records);

# The wrapper, with server "directories".
sub declare_file_source
{
	my ($node) = @_;
	$node->safe_psql('postgres', qq{
		CREATE FUNCTION file_source_handler() RETURNS fdw_handler LANGUAGE c AS '$ENV{FILE_SOURCE}';
		CREATE FUNCTION file_source_validator(text[], oid) RETURNS void LANGUAGE c AS '$ENV{FILE_SOURCE}';
		CREATE FOREIGN DATA WRAPPER file_source HANDLER file_source_handler VALIDATOR file_source_validator;
		CREATE SERVER directories FOREIGN DATA WRAPPER file_source});
	return;
}

# A foreign table with columns ms, n and v, the values of a record, and its metadata;
# returns its directory, which has so many partitions.
sub create_file_source
{
	my ($node, $table, $partitions) = @_;
	my $directory = $node->basedir . "/source_$table";
	mkdir $directory or die "$directory: $!";
	append_records($directory, $_) for 0 .. $partitions - 1;
	$node->safe_psql('postgres', qq{CREATE FOREIGN TABLE $table (ms bigint, n bigint, v int,
		t timestamptz OPTIONS (metadata 'timestamp'), p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset'))
		SERVER directories OPTIONS (directory '$directory', format 'csv')});
	return $directory;
}

# Append records, [ms, n, v], to a partition.
sub append_records
{
	my ($directory, $partition, @records) = @_;
	open my $out, '>>', "$directory/$partition" or die "$directory/$partition: $!";
	print $out map { sprintf "%-31s\n", join(',', @$_) } @records;
	close $out or die "$directory/$partition: $!";
	return;
}

1;
