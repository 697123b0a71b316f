# Is this node's GitLab healthy? Asked on the node itself, whom GitLab answers by default (monitoring_whitelist).
#
# usage: ruby health.rb URL      prints one JSON object: {"services": [...], "readiness": {...}}
require 'json'
require 'net/http'
require 'openssl'
require 'uri'

# `gitlab-ctl status` says "run: puma: (pid 1) 2s; run: log: ..." or "down: puma: 2s, normally up; ..."
status = IO.popen(%w[gitlab-ctl status], err: File::NULL, &:read)
down = status.lines.grep(/\A(?:down|fail|finish|warning):/).reject { |line| line.start_with?('down: mailroom:') }
answer = { services: status.lines.length, down: down.map { |line| line.split(';').first.strip } }
if (url = ARGV[0])
  uri = URI("#{url}/-/readiness?all=1")
  http = Net::HTTP.new(uri.host, uri.port, nil)
  http.ipaddr = '127.0.0.1'
  http.use_ssl = uri.scheme == 'https'
  http.verify_mode = OpenSSL::SSL::VERIFY_NONE # it is this very machine; certificates are looked at from the reader
  http.open_timeout = http.read_timeout = 15
  begin
    got = http.start { http.request(Net::HTTP::Get.new(uri.request_uri)) }
    told = JSON.parse(got.body) rescue nil
    checks = told.is_a?(Hash) ? told.select { |key, _| key.end_with?('_check') } : {}
    failed = checks.reject { |_, found| Array(found).all? { |one| one['status'] == 'ok' } }
    answer[:readiness] = { code: got.code.to_i, failed: failed.keys }
  rescue StandardError => error
    answer[:readiness] = { error: "#{error.class}: #{error.message}" }
  end
end
puts JSON.generate(answer)
