# frozen_string_literal: true

require 'openssl'
require 'securerandom'

module Standin
  # /etc/gitlab/gitlab-secrets.json. Precedence of a mail token (facts, A3, proven):
  # mailroom[...] in gitlab.rb > the JSON > gitlab_rails[...] in gitlab.rb > a new one.
  class Secrets
    HEX = ->(_) { SecureRandom.hex(64) }
    B32 = ->(_) { SecureRandom.base64(32) }
    RSA = ->(_) { OpenSSL::PKey::RSA.new(2048).to_pem }
    SALT = ->(_) { SecureRandom.hex(16) }
    KEEP = ->(_) {}
    # What the package keeps in the file; nothing else survives a reconfigure.
    KEYS = {
      'gitlab_workhorse' => { 'secret_token' => B32 },
      'gitlab_shell' => { 'secret_token' => HEX },
      'gitlab_rails' => {
        'secret_key_base' => HEX, 'db_key_base' => HEX, 'otp_key_base' => HEX,
        'encrypted_settings_key_base' => HEX, 'openid_connect_signing_key' => RSA
      },
      'mattermost' => {
        'email_invite_salt' => SALT, 'file_public_link_salt' => SALT, 'sql_at_rest_encrypt_key' => SALT,
        'register_as_oauth_app' => KEEP, 'gitlab_enable' => KEEP, 'gitlab_id' => KEEP, 'gitlab_secret' => KEEP
      },
      'mailroom' => { 'incoming_email_auth_token' => KEEP, 'service_desk_email_auth_token' => KEEP }
    }.freeze

    def initialize(config, version, file = Standin.path(SECRETS))
      @config = config
      @file = file
      # 19.x no longer knows Mattermost: its section goes with the first reconfigure.
      @keys = version < Roles::NINETEEN ? KEYS : KEYS.reject { |section, _| section == 'mattermost' }
    end

    def generate
      read
      make if @config['package']['generate_default_secrets'] != false
      write if @config['package']['generate_secrets_json_file'] != false
    end

    private

    # What gitlab.rb says wins over the file.
    def read
      return unless File.exist?(@file)

      JSON.parse(File.read(@file)).each do |section, values|
        if @config.section?(section)
          values.each { |key, value| @config[section][key] ||= value }
        else
          warn "Ignoring section #{section} in #{SECRETS}, does not exist in gitlab.rb"
        end
      end
    end

    def make
      mail_tokens
      @keys.each do |section, keys|
        keys.each { |key, maker| @config[section][key] = maker.call(nil) if @config[section][key].nil? }
      end
    end

    # generate_default_secrets = false skips this too, gitlab_rails[...] included.
    def mail_tokens
      %w[incoming_email service_desk_email].each do |type|
        next unless rails("#{type}_enabled") && rails("#{type}_delivery_method") == 'webhook'

        @config['mailroom']["#{type}_auth_token"] ||=
          @config['gitlab_rails']["#{type}_auth_token"] || SecureRandom.base64(32)
      end
    end

    def rails(key)
      value = @config['gitlab_rails'][key]
      value.nil? ? Defaults::GITLAB_RAILS[key] : value
    end

    def write
      return unless File.directory?(File.dirname(@file))

      content = @keys.to_h do |section, keys|
        [section, keys.keys.to_h { |key| [key, @config[section][key]] }]
      end
      File.open(@file, 'w', 0o600) do |file|
        file.puts(JSON.pretty_generate(content))
        file.chmod(0o600)
      end
    end
  end
end
