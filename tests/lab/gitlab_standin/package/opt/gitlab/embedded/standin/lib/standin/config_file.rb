# frozen_string_literal: true

# Same names as in the real package, because operators see them in error messages.
module Mixlib
  module Config
    class UnknownConfigOptionError < ArgumentError; end
  end
end

module Standin
  # Evaluates /etc/gitlab/gitlab.rb: plain Ruby, instance_eval'ed, with one word per
  # section. An unknown word at the top level is an error; an unknown key inside a
  # section is silently kept and ignored (facts/gitlab-mail.md, A1).
  class ConfigFile
    SECTIONS = %w[
      package registry redis postgresql gitlab_kas gitlab_pages pgbouncer consul patroni gitaly praefect
      mattermost letsencrypt crond logrotate prometheus alertmanager node_exporter redis_exporter
      postgres_exporter pgbouncer_exporter gitlab_exporter geo_postgresql geo_secondary geo_logcursor
      sentinel suggested_reviewers gitlab_sshd gitlab_shell gitlab_rails gitlab_workhorse logging puma
      mailroom storage_check nginx bootstrap omnibus_gitconfig manage_accounts
      manage_storage_directories user gitlab_ci sidekiq mattermost_nginx pages_nginx registry_nginx
      gitlab_kas_nginx remote_syslog high_availability web_server prometheus_monitoring git_data_dirs
    ].freeze
    SCALARS = %w[
      node roles edition external_url registry_external_url mattermost_external_url pages_external_url
      gitlab_kas_external_url runtime_dir git_data_dir
    ].freeze

    # version: Gem::Version; decides which roles (and so which *_role words) exist.
    def initialize(version)
      @values = {}
      sections = SECTIONS + (version < Gem::Version.new('19') ? ['spamcheck'] : [])
      sections.each { |name| @values[name.to_sym] = Mash.new }
      SCALARS.each { |name| @values[name.to_sym] = nil }
      Roles.names(version).each { |name| @values[:"#{name}_role"] = Mash.new }
      @values[:edition] = :ee
      @strict = false
    end

    # Also callable from within gitlab.rb. As in the real package the strict mode and the
    # auto-vivifying are not restored but *switched off* when a file has been read: after a
    # `from_file` line, the rest of the outer file is read without them (settings_dsl.rb).
    def from_file(file)
      raise IOError, "Cannot open or read #{file}!" unless File.file?(file) && File.readable?(file)

      @strict = true
      Mash.auto_vivify { instance_eval(File.read(file, encoding: 'UTF-8'), file, 1) }
    ensure
      @strict = false
    end

    # Not the `roles` setting: in the real package this word *declares* a role. It is accepted
    # and changes nothing that an operator means by it.
    def role(name, **_options)
      @values[:"#{name}_role"] ||= Mash.new
      nil
    end

    def [](name)
      @values[name.to_sym]
    end

    def []=(name, value)
      @values[name.to_sym] = value
    end

    def section?(name)
      @values[name.to_sym].is_a?(Mash)
    end

    def to_h
      @values
    end

    def method_missing(name, *args)
      word = name.to_s.delete_suffix('=').to_sym
      raise ArgumentError, 'Too many arguments (1 for 0 or 1)' if args.length > 1

      args.empty? ? get(word) : set(word, args.first)
    end

    def respond_to_missing?(_name, _private = false)
      true
    end

    private

    def get(word)
      return @values[word] if @values.key?(word)
      raise Mixlib::Config::UnknownConfigOptionError, "Reading unsupported config value #{word}." if @strict

      nil
    end

    def set(word, value)
      if @strict && !@values.key?(word)
        raise Mixlib::Config::UnknownConfigOptionError, "Cannot set unsupported config value #{word}."
      end

      @values[word] = Mash.from(value)
    end
  end
end
