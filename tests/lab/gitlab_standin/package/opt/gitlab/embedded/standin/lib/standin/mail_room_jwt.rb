# frozen_string_literal: true

require 'base64'
require 'date'
require 'json'
require 'openssl'
require 'securerandom'

# The lab's additions to Debian's mail_room 0.0.9, so that it does what the version in the GitLab package does (mail_room 0.11.1):
# it signs each push with a JWT, and it logs each push's status code. Reading mail, marking, deleting: all of it is the real program's.
module Standin
  module MailRoomJwt
    # delivery_options.jwt_* of mail_room.yml; 0.0.9 drops them.
    module Options
      attr_reader :jwt

      def initialize(mailbox)
        super
        options = mailbox.delivery_options
        @jwt = options if options[:jwt_auth_header] && options[:jwt_secret_path]
      end
    end

    # Any answer counts as delivered, whatever its status; only a failed connection raises (and ends the process).
    module Postback
      def deliver(message)
        options = @delivery_options
        response = Faraday.new.post(options.url, message) do |request|
          request.headers['Content-Type'] = options.content_type if options.content_type
          request.headers[options.jwt[:jwt_auth_header]] = MailRoomJwt.token(options.jwt) if options.jwt
        end
        options.logger.info({ delivery_method: 'Postback', action: 'message pushed', url: options.url,
                              status_code: response.status })
        true
      end
    end

    # Time stamps as 0.11.1 writes them.
    module Timestamp
      def format_message(severity, timestamp, progname, message)
        super(severity, timestamp.to_datetime.iso8601(3), progname, message)
      end
    end

    # The file is read for each push; strict base64, but no check of the length (Rails does that).
    def self.token(options)
      secret = Base64.strict_decode64(File.read(options[:jwt_secret_path]).chomp)
      payload = { nonce: SecureRandom.hex(12), iat: Time.now.to_i, iss: options[:jwt_issuer] }
      signed = [{ alg: 'HS256' }, payload].map { |part| Base64.urlsafe_encode64(part.to_json, padding: false) }.join('.')
      "#{signed}.#{Base64.urlsafe_encode64(OpenSSL::HMAC.digest('SHA256', secret, signed), padding: false)}"
    end
  end
end

MailRoom::Delivery::Postback::Options.prepend(Standin::MailRoomJwt::Options)
MailRoom::Delivery::Postback.prepend(Standin::MailRoomJwt::Postback)
MailRoom::Logger::Structured.prepend(Standin::MailRoomJwt::Timestamp)
