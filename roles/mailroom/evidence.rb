# What mail_room's own logs on this node say about every mail that it has handed over.
#
# usage: ruby evidence.rb LOG < {"incoming_email": {"user": ..., "mailbox_name": ...}, ...}     prints one JSON object
#
# A mailbox is worked on by one thread, one mail after the other: "sending to deliverer" names the uid, and the next
# "message pushed" to that route has the answer (mail_room/mailbox.rb, delivery/postback.rb). "Setting up watcher" is the
# start of another mail_room: what the one before had not finished by then gets the status 0. Rotated logs are read too.
require 'json'
require 'time'
require 'zlib'

boxes = JSON.parse($stdin.read)
log = ARGV[0]
numbered = Dir["#{log}.*"].grep(/\.\d+(\.gz)?\z/).sort_by { |name| -name[/\.(\d+)(?:\.gz)?\z/, 1].to_i }
answer = boxes.to_h { |kind, _| [kind, { since: nil, started: nil, mails: Hash.new { |all, uid| all[uid] = [] } }] }
open = {} # kind => the mail that is being sent

[*numbered, log].each do |name|
  next unless File.file?(name)

  reader = name.end_with?('.gz') ? Zlib::GzipReader.open(name) : File.open(name)
  reader.each_line do |text|
    # Quick first: most lines are about an empty mailbox.
    sending = text.include?('sending to deliverer')
    starting = text.include?('Setting up watcher')
    next unless sending || starting || text.include?('status_code') || answer.any? { |_, found| found[:since].nil? }

    line = JSON.parse(text) rescue next
    time = Time.parse(line['time'].to_s).to_f rescue next
    context = line['context']
    kind = if context.is_a?(Hash)
             boxes.find { |_, box| context['email'] == box['user'] && context['name'] == box['mailbox_name'] }&.first
           else
             boxes.keys.find { |one| line['url'].to_s.end_with?("/mail_room/#{one}") }
           end
    next unless kind

    answer[kind][:since] ||= time
    if starting
      (open.delete(kind) || [])[1] = 0
      answer[kind][:started] = time
    elsif sending && line['uid']
      answer[kind][:mails][line['uid'].to_s] << (open[kind] = [time, nil])
    elsif line['status_code'] && open[kind]
      open.delete(kind)[1] = line['status_code'].to_i
    end
  end
ensure
  reader&.close
end
puts JSON.generate(answer)
