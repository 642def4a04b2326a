# Sinks of the kinds of test/modules/file_sink.c: directories with a file for each
# micro-batch, and log files.

package StreamAgg::FileSink;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils 'slurp_file';

our @EXPORT = qw(declare_file_sinks create_file_sink files_of lines_of load_lines);

my %columns;

# The wrappers, with a server for each: "files", exactly once, and "logs", at
# least once.
sub declare_file_sinks
{
	my ($node) = @_;
	$node->safe_psql('postgres', qq{
		CREATE FUNCTION file_sink_validator(text[], oid) RETURNS void LANGUAGE c AS '$ENV{FILE_SINK}';
		CREATE FOREIGN DATA WRAPPER file_sink VALIDATOR file_sink_validator;
		CREATE FOREIGN DATA WRAPPER file_log VALIDATOR file_sink_validator;
		CREATE SERVER files FOREIGN DATA WRAPPER file_sink;
		CREATE SERVER logs FOREIGN DATA WRAPPER file_log});
	return;
}

sub directory { my ($node, $table) = @_; return $node->basedir . "/sink_$table"; }

# A foreign table of a server; returns its directory.
sub create_file_sink
{
	my ($node, $table, $server, $columns) = @_;
	my $directory = directory($node, $table);
	mkdir $directory or die "$directory: $!";
	$columns{$table} = $columns;
	$node->safe_psql('postgres', "CREATE FOREIGN TABLE $table ($columns) SERVER $server OPTIONS (directory '$directory')");
	return $directory;
}

# The names of its files with a suffix.
sub files_of
{
	my ($node, $table, $suffix) = @_;
	my $directory = directory($node, $table);
	return map { s{.*/}{}r } sort glob "$directory/*$suffix";
}

# What readers see, in lines.
sub lines_of
{
	my ($node, $table) = @_;
	my $directory = directory($node, $table);
	return map { split /\n/, slurp_file("$directory/$_") } grep { -f "$directory/$_" } files_of($node, $table, '.rows'), files_of($node, $table, 'log');
}

# The same, as a table with column "batch" and those of the sink; returns its name.
sub load_lines
{
	my ($node, $table) = @_;
	my $lines = join "\n", lines_of($node, $table), '\\.';
	$node->safe_psql('postgres', "DROP TABLE IF EXISTS ${table}_lines;
		CREATE TABLE ${table}_lines (batch bigint, $columns{$table});
		COPY ${table}_lines FROM STDIN;\n$lines\n");
	return "${table}_lines";
}

1;
