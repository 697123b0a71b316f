# frozen_string_literal: true

module Standin
  # gitlab.rb + secrets + roles + defaults = what this node is to be. The order of the steps is the
  # real one (facts, A1): the secrets are written before a bad role or URL is noticed.
  class Node
    MAIL_TYPES = %w[incoming_email service_desk_email].freeze
    attr_reader :config, :role

    def initialize(file = Standin.path('/etc/gitlab/gitlab.rb'), secrets_file: Standin.path(SECRETS))
      version = Standin.version_number
      @config = ConfigFile.new(version)
      @config.from_file(file) if File.exist?(file)
      Secrets.new(@config, version, secrets_file).generate
      @role = Roles.load(@config, version)
      parse_external_url
      parse_mail
    end

    # The value of gitlab.rb, or the default.
    def rails(key)
      value = @config['gitlab_rails'][key]
      value.nil? ? Defaults::GITLAB_RAILS[key] : value
    end

    def mailroom(key)
      value = @config['mailroom'][key]
      value.nil? ? Defaults::MAILROOM[key] : value
    end

    def rails?
      setting('gitlab_rails', @role.rails)
    end

    def mailroom?
      @config['mailroom']['enable'] ? true : false
    end

    def service?(name)
      return rails? && setting('puma', @role.services.include?('puma')) if name == 'puma'

      setting(name, @role.services.include?(name))
    end

    def token(type)
      @config['mailroom']["#{type}_auth_token"]
    end

    # MailroomHelper: verbatim internal_api_url; else workhorse if it listens on TCP; else external_url,
    # because Ruby's HTTP cannot talk to workhorse's socket (which is the default).
    def mailroom_gitlab_url
      internal = @config['gitlab_rails']['internal_api_url']
      return internal if internal

      workhorse = @config['gitlab_workhorse']
      return @gitlab_url unless workhorse['listen_network'] == 'tcp'

      "http://#{workhorse['listen_addr']}#{@relative_url}"
    end

    # [address, port, certificate, key]; certificate nil = plain HTTP. In the real package this is
    # nginx, which passes on to workhorse and puma.
    def listen
      nginx = @config['nginx']
      https = nginx['listen_https'].nil? ? @uri&.scheme == 'https' : nginx['listen_https']
      port = nginx['listen_port'] || @uri&.port || 80
      return ['0.0.0.0', port, nil, nil] unless https

      ['0.0.0.0', port, nginx['ssl_certificate'] || "/etc/gitlab/ssl/#{@uri.host}.crt",
       nginx['ssl_certificate_key'] || "/etc/gitlab/ssl/#{@uri.host}.key"]
    end

    def host
      @uri ? @uri.host : Standin.fqdn
    end

    attr_reader :gitlab_url

    # What check-config later reads from /opt/gitlab/embedded/nodes/<fqdn>.json ("normal").
    def attributes
      top = { 'gitlab' => {}, 'roles' => {}, 'monitoring' => {} }
      @config.to_h.each do |key, value|
        name = key.to_s
        next if value.nil? || %w[node roles edition].include?(name)

        value = value.strip_nils if value.is_a?(Mash)
        if name.end_with?('_role') then top['roles'][name.delete_suffix('_role')] = value
        elsif TOP_LEVEL.include?(name) then top[name] = value
        else top['gitlab'][name] = value
        end
      end
      top
    end

    TOP_LEVEL = %w[
      package registry redis postgresql gitlab_kas gitlab_pages pgbouncer consul patroni gitaly praefect
      mattermost letsencrypt crond logrotate spamcheck
    ].freeze

    private

    def setting(section, default)
      value = @config[section] && @config[section]['enable']
      value.nil? ? default : value
    end

    def parse_external_url
      url = @config['external_url']
      @gitlab_url = "http://#{Standin.fqdn}"
      @relative_url = ''
      return unless url

      @uri = URI(url.to_s)
      raise 'GitLab external URL must include a schema and FQDN, e.g. http://gitlab.example.com/' unless @uri.host
      raise "Unsupported GitLab external URL scheme: #{@uri.scheme}" unless %w[http https].include?(@uri.scheme)

      @gitlab_url = url.to_s.chomp('/')
      @relative_url = @uri.path.chomp('/')
    end

    # The trap: mail on and mailroom['enable'] not said = mail_room runs here, whatever the role.
    def parse_mail
      return unless MAIL_TYPES.any? { |type| @config['gitlab_rails']["#{type}_enabled"] }

      @config['mailroom']['enable'] = true if @config['mailroom']['enable'].nil?
    end
  end
end
