# frozen_string_literal: true

require 'base64'
require 'digest'
require 'fileutils'
require 'socket'
require 'time'
require_relative 'jwt'
require_relative '../gitlab/mail_room'

module StandinApp
  # POST /api/v4/internal/mail_room/<type>: the route that mail_room pushes to, with GitLab's checks in GitLab's order
  # (lib/gitlab/mail_room/authenticator.rb). What GitLab's worker would make of the mail is one line in received.jsonl.
  class MailRoomApi
    RECEIVED = '/var/log/gitlab/standin/received.jsonl'
    SecretConfigurationError = Class.new(StandardError)
    LOCK = Mutex.new

    def initialize(received: RECEIVED)
      @received = received
      @secrets = {}
    end

    # Returns [status, body]. An unknown type is 401, not 404, as in GitLab.
    def post(type, token, body)
      return [401, unauthorized] unless authenticated?(type, token)

      keep(type, body)
      [200, { success: true }]
    rescue SecretConfigurationError => e
      warn %({"severity":"ERROR","exception.class":"Gitlab::MailRoom::Authenticator::SecretConfigurationError","exception.message":#{e.message.to_json}})
      [500, { message: '500 Internal Server Error' }]
    end

    def unauthorized
      { message: '401 Unauthorized' }
    end

    # The secret is read before the token is looked at: a bad secret file is 500 for everyone.
    def authenticated?(type, token)
      return false unless Gitlab::MailRoom.enabled_configs[type]

      JWT.verify(token, secret(type), issuer: Gitlab::MailRoom::JWT_ISSUER)
      true
    rescue JWT::DecodeError
      false
    end

    private

    # Remembered for the life of the process once it has been read: a new secret needs a restart of puma.
    def secret(type)
      @secrets[type] ||= begin
        path = File.expand_path(Gitlab::MailRoom.enabled_configs[type]['secret_file'], Gitlab::MailRoom::ROOT)
        bytes = Base64.strict_decode64(File.read(path).chomp)
        raise "#{path} does not contain 32 bytes" if bytes.length != 32

        bytes
      end
    rescue StandardError => e
      raise SecretConfigurationError, "Fail to read #{type}'s secret: #{e.message}"
    end

    # Blank (String#blank?, so also white space only): GitLab's worker logs EmptyEmailError and does nothing else.
    def keep(type, body)
      return if body.strip.empty?

      line = { time: Time.now.utc.iso8601(3), node: Socket.gethostname, route: type,
               message_id: header(body, 'Message-ID'), subject: header(body, 'Subject'), to: header(body, 'To'),
               sha256: Digest::SHA256.hexdigest(body), bytes: body.bytesize }
      LOCK.synchronize { File.open(@received, 'a') { |file| file.puts(line.to_json) } }
    end

    def header(body, name)
      head = body.b.split(/\r?\n\r?\n/, 2).first.gsub(/\r?\n[ \t]+/, ' ')
      head[/^#{name}:[ \t]*(.*?)\r?$/i, 1]&.force_encoding('UTF-8')&.scrub
    end
  end
end
