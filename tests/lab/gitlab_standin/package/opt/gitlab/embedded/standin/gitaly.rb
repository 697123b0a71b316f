# frozen_string_literal: true

# STAND-IN for Gitaly: listens and hangs up. It stores no repositories and speaks no gRPC.
require 'socket'

host, _, port = ARGV.fetch(0).rpartition(':')
$stdout.sync = true
puts %({"level":"info","msg":"STAND-IN for gitaly listening on #{ARGV.first}"})
Signal.trap(:TERM) { exit }
Socket.tcp_server_loop(host, Integer(port)) { |connection, _| connection.close }
