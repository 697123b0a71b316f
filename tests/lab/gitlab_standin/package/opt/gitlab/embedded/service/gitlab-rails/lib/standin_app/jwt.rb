# frozen_string_literal: true

require 'json'
require 'openssl'

module StandinApp
  # HS256 as the jwt gem checks it with GitLab's options (lib/gitlab/jwt_authenticatable.rb; facts, A4).
  module JWT
    DecodeError = Class.new(StandardError)
    EXPIRATION = 5 * 60 # seconds

    module_function

    # Returns the payload, or raises DecodeError with the reason.
    def verify(text, secret, issuer:, now: Time.now)
      header, payload = split(text, secret)
      raise DecodeError, 'Expected a different algorithm' unless header['alg'] == 'HS256'
      raise DecodeError, "Invalid issuer. Expected #{issuer}, received #{payload['iss'] || '<none>'}" if payload['iss'] != issuer

      times(payload, now)
      payload
    end

    def split(text, secret)
      raise DecodeError, 'Nil JSON web token' if text.nil? || text.empty?

      parts = text.split('.', -1)
      raise DecodeError, 'Not enough or too many segments' unless parts.length == 3

      signature = OpenSSL::HMAC.digest('SHA256', secret, parts[0, 2].join('.'))
      header = JSON.parse(decode(parts[0]))
      unless OpenSSL.secure_compare(signature, decode(parts[2]))
        raise DecodeError, 'Signature verification failed'
      end

      [header, JSON.parse(decode(parts[1]))]
    rescue JSON::ParserError, ArgumentError
      raise DecodeError, 'Invalid segment encoding'
    end

    # iat: there, a number, not in the future (no leeway), not older than five minutes. exp and nbf only if given.
    def times(payload, now)
      iat = payload['iat']
      raise DecodeError, 'Invalid iat' if payload.key?('iat') && (!iat.is_a?(Numeric) || iat.to_f > now.to_f)
      raise DecodeError, 'JWT iat claim is missing' if iat.nil?
      raise DecodeError, 'Token has expired' if iat.to_i < now.to_i - EXPIRATION
      raise DecodeError, 'Signature has expired' if payload.key?('exp') && payload['exp'].to_i <= now.to_i
      raise DecodeError, 'Signature nbf has not been reached' if payload.key?('nbf') && payload['nbf'].to_i > now.to_i
    end

    def decode(part)
      part = part.tr('-_', '+/')
      (part + '=' * (-part.length % 4)).unpack1('m0')
    end
  end
end
