# frozen_string_literal: true

module Standin
  # Defaults of the settings that the stand-in knows (omnibus-gitlab, gitlab/attributes/default.rb).
  module Defaults
    MAILBOX = {
      'enabled' => false, 'address' => nil, 'email' => nil, 'password' => nil, 'host' => nil, 'port' => nil,
      'ssl' => nil, 'start_tls' => nil, 'mailbox_name' => 'inbox', 'idle_timeout' => nil,
      'inbox_method' => 'imap', 'inbox_options' => nil, 'delivery_method' => 'webhook', 'auth_token' => nil
    }.freeze
    # Only incoming_email has these two; service_desk_email_delete_after_delivery is read by nothing.
    INCOMING_ONLY = { 'delete_after_delivery' => true, 'expunge_deleted' => nil }.freeze

    GITLAB_RAILS = {
      **MAILBOX.merge(INCOMING_ONLY).transform_keys { |key| "incoming_email_#{key}" },
      **MAILBOX.transform_keys { |key| "service_desk_email_#{key}" },
      'encrypted_settings_path' => "#{RAILS_DIR}/shared/encrypted_settings",
      'shared_path' => "#{RAILS_DIR}/shared",
      'auto_migrate' => true,
      'monitoring_whitelist' => ['127.0.0.0/8', '::1/128']
    }.freeze

    MAILROOM = {
      'log_directory' => '/var/log/gitlab/mailroom', 'exit_log_format' => 'plain', 'ha' => false
    }.freeze
  end
end
