# Tries from the reader's own seat everything that mail_room will need, without taking or creating any mail.
#
# usage: ruby probe.rb < questions.json      prints one JSON object; no secret is in it
#
# It runs under the package's own Ruby, so that names, routes and certificates are seen as mail_room sees them.
# Routes: a POST with a wrong token must be answered 401 (the route is there and checks), a POST with the token from
# the file that mail_room reads must be answered 200. The body of the latter has no sender and calls itself
# auto-generated: GitLab drops such a message without an answer (gitlabhq lib/gitlab/email/receiver.rb,
# ignore_auto_reply!; lib/gitlab/email/failure_handler.rb has no reply for it).
require 'json'
require 'net/http'
require 'net/imap'
require 'openssl'
require 'securerandom'
require 'uri'

HEADER = 'Gitlab-Mailroom-Api-Request'.freeze
BODY = "Auto-Submitted: auto-generated\r\nSubject: pyinfra-gitlab: is this token accepted?\r\n\r\n".freeze
TIMEOUT = 10 # seconds, for each connection

def encode(bytes) = [bytes].pack('m0').tr('+/', '-_').delete('=')

# The token mail_room sends: lib/gitlab/mail_room/authenticator.rb checks iss, iat and the signature.
def jwt(secret)
  claims = { nonce: SecureRandom.hex(12), iat: Time.now.to_i, iss: 'gitlab-mailroom' }
  signed = [{ typ: 'JWT', alg: 'HS256' }, claims].map { |part| encode(JSON.generate(part)) }.join('.')
  "#{signed}.#{encode(OpenSSL::HMAC.digest('SHA256', secret, signed))}"
end

def post(url, connect, secret)
  uri = URI(url)
  http = Net::HTTP.new(uri.host, uri.port, nil)
  http.ipaddr = connect if connect
  http.use_ssl = uri.scheme == 'https'
  http.open_timeout = http.read_timeout = TIMEOUT
  http.max_retries = 0
  request = Net::HTTP::Post.new(uri.request_uri, 'Content-Type' => 'text/plain', HEADER => jwt(secret))
  request.body = BODY
  http.start { http.request(request).code.to_i }
end

def try_route(route)
  secret = IO.read(route['secret_file']).chomp.unpack1('m0')
  wrong = post(route['url'], route['connect'], SecureRandom.bytes(32))
  return { wrong: wrong, right: nil } unless wrong == 401

  { wrong: wrong, right: post(route['url'], route['connect'], secret) }
rescue StandardError => error
  { error: "#{error.class}: #{error.message}" }
end

def log_in(box)
  options = box['ssl'] ? { port: box['port'], ssl: true } : { port: box['port'] }
  imap = Net::IMAP.new(box['host'], **options)
  imap.starttls if box['start_tls']
  yield imap
ensure
  imap&.disconnect
end

# EXAMINE opens the folder read-only: no flag changes, nothing is taken.
def try_mailbox(box)
  step = 'connect'
  Timeout.timeout(3 * TIMEOUT) do
    log_in(box) do |imap|
      step = 'login'
      imap.login(box['user'], box['password'])
      step = 'folder'
      imap.examine(box['mailbox_name'])
      unseen = imap.uid_search(%w[UNSEEN])
      old = Time.now - box['stuck_after']
      found = unseen.empty? ? [] : imap.uid_fetch(unseen.first(500), ['INTERNALDATE']) || []
      # Among the answers are flags that mail_room changes meanwhile (RFC 3501, 7.4.2), without a date.
      dates = found.filter_map { |mail| mail.attr['INTERNALDATE'] }
      waiting = dates.count { |date| Time.parse(date) < old }
      taken = imap.uid_search(%w[SEEN UNDELETED]).length
      return { ok: true, unseen: unseen.length, stuck: waiting, seen: taken }
    end
  end
rescue StandardError => error
  message = error.message.gsub(box['password'].to_s, '********')
  { ok: false, step: step, error: "#{error.class}: #{message}" }
end

require 'time'
require 'timeout'
questions = JSON.parse($stdin.read)
routes = questions['routes'].map { |route| Thread.new { [route['name'], try_route(route)] } }
mailboxes = questions['mailboxes'].map { |name, box| Thread.new { [name, try_mailbox(box)] } }
puts JSON.generate(routes: routes.to_h(&:value), mailboxes: mailboxes.to_h(&:value), clock: Time.now.to_f)
