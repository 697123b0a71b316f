# frozen_string_literal: true

require 'openssl'
require 'yaml'

module Gitlab
  # STAND-IN for the encrypted settings of `gitlab-rake gitlab:incoming_email:secret:*`. The path, the key it depends on
  # and the precedence are the real ones; the file's format is the stand-in's own (AES-256-GCM).
  class EncryptedSettings
    MissingKeyError = Class.new(StandardError)
    InvalidFileError = Class.new(StandardError)

    attr_reader :path

    def initialize(type, gitlab_yml, rails_root)
      @path = File.join(gitlab_yml.dig('encrypted_settings', 'path'), "#{type}.yaml.enc")
      secrets = "#{rails_root}/config/secrets.yml"
      @base = YAML.safe_load(File.read(secrets)).dig('production', 'encrypted_settings_key_base') if File.exist?(secrets)
    end

    def exist?
      File.exist?(@path)
    end

    def values
      return {} if @base.nil? || !exist?

      YAML.safe_load(read) || {}
    end

    def read
      nonce, tag, data = File.read(@path).split('--').map { |part| part.unpack1('m0') }
      cipher = OpenSSL::Cipher.new('aes-256-gcm').decrypt
      cipher.key = key
      cipher.iv = nonce
      cipher.auth_tag = tag
      (cipher.update(data) + cipher.final).force_encoding('UTF-8')
    rescue OpenSSL::Cipher::CipherError, ArgumentError, TypeError, NoMethodError
      raise InvalidFileError, "Couldn't decrypt #{@path}. Perhaps you passed the wrong key?"
    end

    def write(content)
      cipher = OpenSSL::Cipher.new('aes-256-gcm').encrypt
      cipher.key = key
      nonce = cipher.random_iv
      data = content.empty? ? cipher.final : cipher.update(content) + cipher.final
      File.open(@path, 'w', 0o600) { |file| file.write([nonce, cipher.auth_tag, data].map { |part| [part].pack('m0') }.join('--')) }
    end

    private

    def key
      raise MissingKeyError, 'Missing encryption key encrypted_settings_key_base.' if @base.nil?

      OpenSSL::Digest::SHA256.digest(@base)
    end
  end
end
