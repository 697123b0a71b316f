# frozen_string_literal: true

module Standin
  # The run scripts of the services that the stand-in has, and whether each is on.
  class Scripts
    BIN = '/opt/gitlab/embedded/bin'
    # As in the real package: five seconds before mail_room comes back, unless the TERM signal killed it. mail_room catches
    # TERM and exits, so stopping takes these five seconds too ("finish: mailroom: ..." in the status; the process is gone).
    FINISH = <<~SH
      #!/bin/sh
      [ "$2" = 15 ] && exit 0
      echo "Runit: waiting 5 seconds before restarting mail_room"
      sleep 5
    SH

    def initialize(node)
      @node = node
    end

    # Yields name, options for Runit#enable (nil = disabled), and more to do with the resources, if any.
    def each
      yield 'puma', (@node.service?('puma') ? { run: puma } : nil), nil
      yield 'gitaly', (@node.service?('gitaly') ? { run: gitaly } : nil), nil
      yield 'mailroom', (@node.mailroom? ? mailroom : nil), (method(:working_links) if @node.mailroom?)
    end

    private

    # Debian's puma with the stand-in's Rack application, where the real one has nginx -> workhorse -> puma.
    # setpriv instead of chpst because port 80 needs a capability.
    def puma
      address, port, certificate, key = @node.listen
      bind = certificate ? "ssl://#{address}:#{port}?cert=#{certificate}&key=#{key}" : "tcp://#{address}:#{port}"
      # nginx's master reads the key as root; without nginx, puma has to be root for that.
      user = certificate ? '' : 'setpriv --reuid git --regid git --init-groups ' \
                                '--inh-caps +net_bind_service --ambient-caps +net_bind_service '
      <<~SH
        #!/bin/sh
        exec 2>&1
        cd #{RAILS}
        exec chpst -e /opt/gitlab/etc/gitlab-rails/env #{user}\\
          #{BIN}/ruby #{BIN}/puma --environment production --threads 2:8 --tag gitlab-puma-standin \\
          --bind '#{bind}' #{RAILS}/config.ru
      SH
    end

    # The command line of the real package (facts, A5).
    def mailroom
      log = @node.mailroom('log_directory')
      run = <<~SH
        #!/bin/sh
        exec 2>&1
        cd #{RAILS_DIR}/working
        echo "Runit: starting mail_room"
        exec chpst -e /opt/gitlab/etc/gitlab-rails/env -P -u git:git -U git:git \\
          #{BIN}/mail_room -c #{RAILS}/config/mail_room.yml --log-exit-as #{@node.mailroom('exit_log_format')}
      SH
      { run: run, finish: FINISH, log_dir: log, log_owner: 'git' }
    end

    # jwt_secret_path in mail_room.yml is relative to mail_room's working directory. (On a node without
    # Rails that directory does not exist, and mail_room cannot work.)
    def working_links(resources)
      working = "#{RAILS_DIR}/working"
      return unless File.directory?(Standin.path(working))

      Node::MAIL_TYPES.each do |type|
        resources.link("#{working}/.gitlab_#{type}_secret", "#{RAILS}/.gitlab_#{type}_secret") if @node.token(type)
      end
    end

    # Something that listens where Gitaly does, so that a Gitaly node has a service to look at.
    def gitaly
      address = @node.config['gitaly']['listen_addr']
      address ||= (@node.config['gitaly']['configuration'] || {})['listen_addr'] || 'localhost:8075'
      <<~SH
        #!/bin/sh
        exec 2>&1
        exec chpst -u git:git #{BIN}/ruby /opt/gitlab/embedded/standin/gitaly.rb '#{address}'
      SH
    end
  end
end
