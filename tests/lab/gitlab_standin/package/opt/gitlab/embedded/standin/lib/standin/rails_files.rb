# frozen_string_literal: true

module Standin
  # What the gitlab::gitlab-rails recipe puts on a node with Rails (and on no other): gitlab.yml,
  # secrets.yml, the two mail_room secret files and the links to them (facts, A2 and A3).
  class RailsFiles
    DEPENDENTS = %w[puma mailroom].freeze

    def initialize(node, resources)
      @node = node
      @resources = resources
    end

    def converge
      @resources.recipe('gitlab::gitlab-rails')
      directories
      template_link('secrets.yml', "#{RAILS}/config/secrets.yml", secrets_yml, sensitive: true)
      template_link('gitlab.yml', "#{RAILS}/config/gitlab.yml", gitlab_yml, group: 'git', mode: 0o640)
      Node::MAIL_TYPES.each { |type| secret_file(type) }
      @resources.template('/opt/gitlab/etc/gitlab-rails/env/RAILS_ENV', 'production', mode: 0o640, group: 'git')
      @resources.template('/opt/gitlab/etc/gitlab-rails/env/HOME', '/var/opt/gitlab', mode: 0o640, group: 'git')
      migrations if @node.rails('auto_migrate')
    end

    # resources/rails_migration.rb of the package: once for each revision, unless it failed; a run without the
    # post-deployment migrations counts too. The services that depend on it are restarted.
    def migrations
      status = Standin.path("#{RAILS_DIR}/upgrade-status/db-migrate-#{Standin.version}")
      done = @resources.step('rails_migration[gitlab-rails] action migrate') do
        next [] if File.exist?(status) && File.read(status).strip == '0'

        FileUtils.mkdir_p(File.dirname(status), mode: 0o700)
        Migrations.run.then { File.write(status, "0\n") }
        ['execute the code that migrates the database']
      end
      @resources.restarts.push('puma') if done
    end

    # Whatever stands in the configuration as a string is written by String#inspect, as the real template's
    # quote() does: "\#{" is no YAML, so a password with #{, #$ or #@ makes the whole file unreadable.
    def self.quote(value)
      value.is_a?(String) ? value.inspect : value
    end

    private

    def directories
      owner = { owner: 'git', group: 'git', mode: 0o700 }
      @resources.directory(RAILS_DIR, owner: 'git', mode: 0o755)
      @resources.directory(@node.rails('shared_path'), owner: 'git', mode: 0o751)
      [ETC, "#{RAILS_DIR}/working", "#{RAILS_DIR}/tmp", @node.rails('encrypted_settings_path'),
       '/var/log/gitlab/gitlab-rails', '/var/log/gitlab/standin', SHARED].each { |path| @resources.directory(path, **owner) }
      @resources.directory('/opt/gitlab/etc/gitlab-rails/env', owner: 'root', mode: 0o755)
    end

    def template_link(name, link, content, owner: 'root', group: 'root', mode: 0o644, sensitive: false)
      @resources.template("#{ETC}/#{name}", content, owner: owner, group: group, mode: mode,
                                                     sensitive: sensitive, notifies: DEPENDENTS)
      @resources.link(link, "#{ETC}/#{name}")
    end

    def secret_file(type)
      name = "gitlab_#{type}_secret"
      token = @node.token(type)
      unless token
        return @resources.skipped("templatesymlink[Create a #{name} and create a symlink to Rails root] action create")
      end

      template_link(name, "#{RAILS}/.#{name}", "#{token}\n", sensitive: true)
    end

    def secrets_yml
      keys = @node.config['gitlab_rails'].slice(
        'db_key_base', 'secret_key_base', 'otp_key_base', 'encrypted_settings_key_base', 'openid_connect_signing_key'
      )
      "# This file is managed by gitlab-ctl.\n#{{ 'production' => keys }.to_yaml}"
    end

    def gitlab_yml
      <<~YML
        # This file is managed by gitlab-ctl. Manual changes will be
        # erased! To change the contents below, edit /etc/gitlab/gitlab.rb
        # and run `sudo gitlab-ctl reconfigure`.
        # (Written by a STAND-IN for the GitLab Linux package: only the sections it needs.)

        production: &base
          gitlab:
            host: #{@node.host}
            url: #{@node.gitlab_url}
          monitoring:
            ip_whitelist: #{@node.rails('monitoring_whitelist').to_json}
          shared:
            path: #{@node.rails('shared_path')}
          encrypted_settings:
            path: #{@node.rails('encrypted_settings_path')}
          mattermost:
            enabled: #{!mattermost_host.nil?}
            host: #{mattermost_host}

        #{mailbox('incoming_email', expunge: true)}
        #{mailbox('service_desk_email', expunge: false)}
      YML
    end

    # 18.x prefers mattermost_external_url, 19.x gitlab_rails['mattermost_host'] (facts, B).
    def mattermost_host
      sources = [@node.config['mattermost_external_url'], @node.rails('mattermost_host')]
      sources.reverse! if Standin.version_number >= Roles::NINETEEN
      sources.compact.first
    end

    # Bare values are bare on purpose: that is what the real template does.
    def mailbox(type, expunge:)
      value = ->(key) { @node.rails("#{type}_#{key}") }
      quoted = ->(key) { self.class.quote(value.call(key)) }
      lines = [
        "  #{type}:",
        "    enabled: #{value['enabled']}", "    address: #{quoted['address']}", "    user: #{quoted['email']}",
        "    password: #{quoted['password']}", "    host: #{quoted['host']}", "    port: #{value['port']}",
        "    ssl: #{value['ssl']}", "    start_tls: #{value['start_tls']}",
        "    mailbox: #{quoted['mailbox_name']}", "    idle_timeout: #{value['idle_timeout']}",
        "    log_path: #{value['log_file'] || "#{@node.mailroom('log_directory')}/mail_room_json.log"}",
        "    inbox_method: #{value['inbox_method']}", "    inbox_options: #{value['inbox_options'].to_json}",
        "    delivery_method: #{value['delivery_method']}",
        "    gitlab_url: #{@node.mailroom_gitlab_url}", "    secret_file: .gitlab_#{type}_secret"
      ]
      if expunge
        lines << "    delete_after_delivery: #{value['delete_after_delivery']}"
        lines << "    expunge_deleted: #{value['expunge_deleted']}"
      end
      "#{lines.join("\n")}\n"
    end
  end
end
