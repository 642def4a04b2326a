# The SQL of README.md and of the pages in doc/, as it stands there: each page in a
# database of its own, block by block.  The cookbook, whose results are compared too,
# has a test of its own (cookbook.pl).
#
# A line "The examples use ..." of a page names sections whose SQL is run before.
# A block that cannot run says so in its first line: ```sql (not run: the reason).

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $dir = $ENV{TESTDIR};
my $broker = start_broker(map { $_ => 2 } qw(clicks payments orders readings requests transfers minutes));
my $node = new_node('doc', 'max_worker_processes = 64', 'stream_agg.max_streams = 100', "timezone = 'UTC'");

# --- the pages: [ { section, line, how, text }... ]
sub blocks
{
	my $page = shift;
	my (@blocks, $section);
	my ($line, $fence) = (0);
	for my $text (split /\n/, slurp_file("$dir/$page"))
	{
		$line++;
		if (defined $fence)
		{
			if ($text eq $fence) { $fence = undef; }
			else { $blocks[-1]{text} .= "$text\n"; }
		}
		elsif ($text =~ /^(```+|~~~+)(.*)$/)
		{
			$fence = $1;
			push @blocks, { section => $section, line => $line, how => $2, text => '' };
		}
		elsif ($text =~ /^#+ (.*)$/) { $section = $1; }
	}
	die "$page: a block has no end" if defined $fence;
	return @blocks;
}

sub anchor
{
	my $heading = lc shift;
	$heading =~ s/[^a-z0-9 _-]//g;
	return $heading =~ tr/ /-/r;
}

# the SQL of a section, as a link in doc/ names it
sub section_sql
{
	my ($page, $anchor) = split /#/, shift;
	return map { $_->{text} } grep { $_->{how} eq 'sql' && anchor($_->{section}) eq $anchor } blocks("doc/$page");
}

# --- what the sources of the cookbook read
my @clicks = map { sprintf '{"ts": "2026-01-05T09:%02d:00Z", "user_id": %d, "page": "/%d", "event": "view", "amount": 5, "purchase_amount": 5}', $_, $_ % 5, $_ % 3 } 0 .. 59;
my @payments = map { sprintf '{"id": "p-%d", "paid_at": "2026-01-05T09:%02d:00Z", "card": "c-%d", "merchant": "kiosk", "amount": 4.20, "status": "ok"}', $_, $_, $_ % 4 } 0 .. 59;
my @orders = map { sprintf '{"at": "2026-01-05T09:%02d:00Z", "customer": %d, "sku": "tea", "quantity": 2}', $_, $_ % 4 } 0 .. 59;
$broker->produce('clicks', map { [ 0, '', $_ ] } @clicks);
$broker->produce('payments', map { [ $_ % 2, '', $payments[$_] ] } 0 .. $#payments);
$broker->produce('orders', map { [ 0, '', $_ ] } @orders);

my $brokers = $broker->brokers;
sub runs
{
	my ($database, $text, $name) = @_;
	$text =~ s/broker:9092/$brokers/g;
	$text =~ s/\bmydb\b/$database/g;
	my ($status, $out, $err) = $node->psql($database, $text, on_error_stop => 1);
	return is($status, 0, $name) || diag($text, $err);
}

my @not_run;
my $run = 0;
for my $page ('README.md', map { s{^\Q$dir/}{}r } sort glob "$dir/doc/*.md")
{
	next if $page eq 'doc/cookbook.md';
	my @blocks = blocks($page);
	my ($uses) = slurp_file("$dir/$page") =~ /^The examples use (.*?)\.$/ms;
	my $database = 'doc_' . (lc($page) =~ s/\W/_/gr);

	for my $block (grep { $_->{how} ne 'sql' } @blocks)
	{
		if ($block->{how} =~ /^sql \(not run: (\S.*)\)$/) { push @not_run, "$page, line $block->{line}: $1"; }
		else { like($block->{how}, qr/^(sh|json|yaml|)$/, "$page, line $block->{line}: a block has a known language"); }
		unlike($block->{text}, qr/^SELECT /m, "$page, line $block->{line}: SQL is marked as such") if $block->{how} eq '';
	}
	@blocks = grep { $_->{how} eq 'sql' } @blocks or next;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION stream_agg') unless $page eq 'README.md';
	for my $link (defined $uses ? $uses =~ /\]\(([^)]+#[^)]+)\)/g : ())
	{
		my @sql = section_sql($link);
		ok(@sql > 0, "$page: $link has SQL");
		runs($database, $_, "$page: what it uses of $link runs") for @sql;
	}
	for my $block (@blocks)
	{
		$run++;
		runs($database, $block->{text}, "$page, line $block->{line}: the SQL of \"$block->{section}\" runs");
	}
	$node->safe_psql('postgres', "DROP DATABASE $database");
}

cmp_ok($run, '>=', 60, "$run blocks of SQL have run");
note("not run: $_") for @not_run;
cmp_ok(scalar @not_run, '<=', 3, 'and few cannot run: ' . join('; ', @not_run));

done_testing();
