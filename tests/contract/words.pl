#!/usr/bin/env perl
# A container in another language and of another format: how often were the words of a text seen?
# perl words.pl train|serve; needs no more than Perl itself.
use strict;
use warnings;
use IO::Socket::INET;

my $base = $ENV{SAGEMAKER_BASE_DIR} || '/opt/ml';
my $model = "$base/model/counts";
my %counts;

sub train {
    my @files = grep { -f } glob "'$base/input/data/training/*'";
    unless (@files) {
        open my $out, '>', "$base/output/failure" or die $!;
        print $out 'channel training holds no text';
        exit 1;
    }
    for my $file (@files) {
        open my $in, '<', $file or die $!;
        while (<$in>) { $counts{ lc $_ }++ for /\w+/g }
    }
    open my $out, '>', $model or die $!;
    print $out map { "$_ $counts{$_}\n" } sort keys %counts;
}

sub answer {
    my ($method, $path, $type, $body) = @_;
    return (200, '') if "$method $path" eq 'GET /ping';
    return (404, '{"error": "there are /ping and /invocations"}') if "$method $path" ne 'POST /invocations';
    return (415, '{"error": "send text/plain"}') if $type !~ m{^text/plain\b};
    return (400, '{"error": "send UTF-8 text, a word a line"}') unless length $body and utf8::decode($body);
    return (200, '[' . join(', ', map { $counts{ lc $_ } || 0 } $body =~ /\w+/g) . ']');
}

sub converse {
    my ($client) = @_;
    my ($method, $path) = split / /, <$client> // return;
    my ($type, $length, $chunked, $body) = ('', 0, 0, '');
    while (defined(my $line = <$client>)) {
        last if $line =~ /^\r?\n$/;
        $type = $1 if $line =~ /^Content-Type: *(.*?)\r/i;
        $length = $1 if $line =~ /^Content-Length: *(\d+)/i;
        $chunked = 1 if $line =~ /^Transfer-Encoding: *chunked/i;
    }
    do {
        $length = hex(<$client> =~ /^(\w+)/ ? $1 : 0) if $chunked;
        read $client, $body, $length, length $body;
        <$client> if $chunked;
    } while $chunked and $length;
    my ($status, $said) = answer($method, $path, $type, $body);
    my $head = "HTTP/1.1 $status .\r\nContent-Type: application/json\r\nConnection: close\r\n";
    print $client $head . 'Content-Length: ' . length($said) . "\r\n\r\n$said";
}

sub serve {
    open my $in, '<', $model or die "no model: $model: $!\n";
    %counts = map { /(\S+) (\d+)/ } <$in>;
    my $door = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $ENV{SAGEMAKER_BIND_TO_PORT} || 8080, Listen => 64, ReuseAddr => 1
    ) or die "cannot listen: $@\n";
    $SIG{CHLD} = 'IGNORE';
    $SIG{TERM} = sub { 1 while wait != -1; exit 0 };
    while (1) {
        my $client = $door->accept or next;
        next if fork;
        $SIG{TERM} = 'DEFAULT';
        converse($client);
        exit 0;
    }
}

$ARGV[0] eq 'train' ? train() : serve();
