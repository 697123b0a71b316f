# frozen_string_literal: true

require 'json'
require 'yaml'
require_relative 'encrypted_settings'

module Gitlab
  # STAND-IN: the mailboxes as gitlab.yml describes them, for mail_room.yml (in mail_room's process) and for the
  # API (in puma's). Defaults and precedence as in GitLab's lib/gitlab/mail_room.rb (facts, A2 and A6).
  module MailRoom
    ROOT = File.expand_path('../..', __dir__)
    TYPES = %w[incoming_email service_desk_email].freeze
    JWT_HEADER = 'Gitlab-Mailroom-Api-Request'
    JWT_ISSUER = 'gitlab-mailroom'
    DEFAULTS = {
      'enabled' => false, 'port' => 143, 'ssl' => false, 'start_tls' => false, 'mailbox' => 'inbox',
      'idle_timeout' => 60, 'expunge_deleted' => false, 'delivery_method' => 'sidekiq',
      'delete_after_delivery' => true, 'log_path' => "#{ROOT}/log/mail_room_json.log"
    }.freeze

    module_function

    # {type => settings} of the mailboxes that are on and have an address; read once per process.
    def enabled_configs
      @enabled_configs ||= TYPES.to_h { |type| [type, config(type)] }
                                .select { |_, config| config['enabled'] && !config['address'].to_s.empty? }
    end

    def gitlab_yml
      @gitlab_yml ||= YAML.safe_load(File.read("#{ROOT}/config/gitlab.yml"), aliases: true).fetch('production')
    end

    def config(type)
      return {} unless File.exist?("#{ROOT}/config/gitlab.yml")

      config = DEFAULTS.merge(gitlab_yml.fetch(type, {}).compact)
      # user and password of the encrypted file win over gitlab.yml
      config.merge(EncryptedSettings.new(type, gitlab_yml, ROOT).values.slice('user', 'password').compact)
    end
  end
end
