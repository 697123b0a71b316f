# Runs on every Rails node at boot and every minute: mail_room may run here only if this node is the reader on record.
#
# usage: ruby guard.rb < guard.json
#
# A node that was away does not know what happened meanwhile, so the other Rails nodes are asked (a file of theirs that
# GitLab Workhorse serves; see record.py). It starts mail_room only once per boot, and after it has itself stopped it: a
# mail_room that an operator has stopped stays stopped.
require 'digest'
require 'json'
require 'net/http'
require 'openssl'
require 'uri'

PATIENCE = 2 # looks in a row at which nobody answers, until mail_room is stopped
TIMEOUT = 5 # seconds, for each connection

def fetch(other)
  uri = URI(other['url'])
  http = Net::HTTP.new(uri.host, uri.port, nil)
  http.ipaddr = other['connect'] if other['connect']
  http.use_ssl = uri.scheme == 'https'
  http.open_timeout = http.read_timeout = TIMEOUT
  http.max_retries = 0
  answer = http.start { http.request(Net::HTTP::Get.new(uri.request_uri)) }
  answer.body.strip if answer.code == '200' && answer.body.strip.match?(/\A\h{64}\z/)
rescue StandardError
  nil
end

def verdict(config)
  own = JSON.parse(File.read(config['record']))['reader'] rescue nil
  return :other unless own == config['node']
  return :mine if config['others'].empty?

  said = config['others'].map { |other| Thread.new { fetch(other) } }.map(&:value).compact
  return :unknown if said.empty?

  said.all?(config['mine']) ? :mine : :other
end

def readers = `#{CONFIG['readers']}`.split.map(&:to_i)

# One TERM only: at the first one mail_room hands over what it has fetched, at a second one it ends at once.
def stop
  own = File.read(CONFIG['supervised']).to_i rescue nil
  system('gitlab-ctl', 'stop', 'mailroom', out: File::NULL, err: File::NULL)
  (readers - [own]).each { |pid| Process.kill('TERM', pid) rescue nil }
  300.times { readers.empty? ? return : sleep(0.25) }
  readers.each { |pid| Process.kill('KILL', pid) rescue nil }
end

# A line of the audit log, as roles/node/audit.py writes it.
def note(what)
  File.open(CONFIG['log'], File::RDWR | File::CREAT | File::APPEND, 0o600) do |log|
    log.flock(File::LOCK_EX)
    time = Time.now.utc.strftime('%Y-%m-%dT%H:%M:%S.%LZ')
    log.puts(JSON.generate(prev: Digest::SHA256.hexdigest(log.readlines.last.to_s), time: time, by: 'mail guard', what: what))
  end
rescue SystemCallError => error
  warn "the audit log could not be written: #{error.message}"
end

# A run of ours stops and starts mail_room itself, and knows more than we do.
def run_under_way?
  File.open(CONFIG['lock'], File::RDWR | File::CREAT, 0o600) { |lock| !lock.flock(File::LOCK_EX | File::LOCK_NB) }
rescue SystemCallError
  false
end

CONFIG = JSON.parse($stdin.read)
state = begin
  JSON.parse(File.read(CONFIG['state']))
rescue StandardError
  { 'may_start' => true, 'unknown' => 0 } # first look since the boot: the file is in /run
end
found = verdict(CONFIG)
exit if run_under_way?
state['unknown'] = found == :unknown ? state['unknown'] + 1 : 0
# runit starts a service with this file only when it is told to: so not at boot, before this has asked.
File.write("#{CONFIG['sv']}/down", '') if File.directory?(CONFIG['sv']) && !File.exist?("#{CONFIG['sv']}/down")

if found == :mine && state['may_start'] && File.symlink?(CONFIG['service'])
  if readers.empty?
    puts 'this node is the reader on record: mail_room is started'
    system('gitlab-ctl', 'start', 'mailroom', out: File::NULL, err: File::NULL)
    note('mail_room started by its guard')
  end
  state['may_start'] = false
elsif (found == :other || state['unknown'] >= PATIENCE) && !readers.empty?
  why = found == :other ? 'another node is the reader on record' : 'no other Rails node answers'
  puts "#{why}: mail_room is stopped"
  stop
  note("mail_room stopped by its guard: #{why}")
  state['may_start'] = true
end
File.write(CONFIG['state'], JSON.generate(state))
