# Looks for mails in the mailboxes that were taken, or hands some of them back to mail_room.
#
# usage: ruby recover.rb < questions.json     prints one JSON object; no password and no text of a mail is in it
#
# {"look": true}: of every mail with \Seen or \Deleted whose uid is not in "taken": flags, date, Message-ID, sender.
# {"give_back": [uids]}: clears both flags of these, so that mail_room finds them at its next look. The folder is opened
# read-only (EXAMINE) unless something is given back, and nothing is given back when UIDVALIDITY is another one.
require 'json'
require 'net/imap'
require 'time'
require 'timeout'

def with(box)
  imap = Net::IMAP.new(box['host'], port: box['port'], ssl: box['ssl'])
  imap.starttls if box['start_tls']
  imap.login(box['user'], box['password'])
  yield imap
ensure
  imap&.disconnect
end

def look(imap, box)
  imap.examine(box['mailbox_name'])
  uids = imap.uid_search(%w[OR SEEN DELETED]) - box['taken']
  asked = ['FLAGS', 'INTERNALDATE', 'BODY.PEEK[HEADER.FIELDS (MESSAGE-ID FROM)]']
  mails = uids.each_slice(200).flat_map { |some| imap.uid_fetch(some, asked) || [] }
  # Among the answers are flags that mail_room changes meanwhile (RFC 3501, 7.4.2), and nothing else about those mails.
  mails.select! { |mail| mail.attr['INTERNALDATE'] && mail.attr['UID'] }
  found = mails.map do |mail|
    header = mail.attr.find { |name, _| name.start_with?('BODY[') }&.last.to_s.scrub('?').gsub(/\r?\n[ \t]+/, ' ')
    { uid: mail.attr['UID'], deleted: mail.attr['FLAGS'].include?(:Deleted), date: Time.parse(mail.attr['INTERNALDATE']).to_f,
      message_id: header[/^message-id:\s*<?([^>\r\n]*)>?/i, 1].to_s, sender: header[/^from:.*?@([\w.-]+)/i, 1].to_s }
  end
  { validity: imap.responses['UIDVALIDITY'].last, mails: found }
end

def give_back(imap, box)
  imap.select(box['mailbox_name'])
  return { error: 'the mailbox was made new meanwhile (UIDVALIDITY)' } if imap.responses['UIDVALIDITY'].last != box['validity']

  box['give_back'].each_slice(200) { |some| imap.uid_store(some, '-FLAGS.SILENT', %i[Deleted Seen]) }
  { given: box['give_back'].length }
end

boxes = JSON.parse($stdin.read)
answer = boxes.to_h do |kind, box|
  [kind, Timeout.timeout(120) { with(box) { |imap| box['give_back'] ? give_back(imap, box) : look(imap, box) } }]
rescue StandardError => error
  [kind, { error: "#{error.class}: #{error.message.gsub(box['password'].to_s, '********')}" }]
end
puts JSON.generate(answer)
