# frozen_string_literal: true

require_relative 'scripts'

module Standin
  # `gitlab-ctl reconfigure`: output, log file, exit code and order of a Chef run.
  class Reconfigure
    NODES = '/opt/gitlab/embedded/nodes'
    LOG = '/var/log/gitlab/reconfigure'
    LOCK = '/opt/gitlab/embedded/cookbooks/cache/chef-client-running.pid'

    # Writes to the screen and to the log.
    class Tee
      def initialize(*streams)
        @streams = streams
      end

      def puts(*lines)
        @streams.each { |stream| stream.puts(*lines) }
      end
    end

    def run
      started = Time.now
      open_log(started)
      one_at_a_time { converge }
      finish("Infra Phase complete, #{@resources.updated}/#{@resources.total} resources updated in " \
             "#{format('%02d', (Time.now - started).to_i)} seconds")
      @out.puts 'gitlab Reconfigured!'
      0
    rescue ScriptError, StandardError => e
      failed(e, started)
      1
    end

    private

    def converge
      @resources = Resources.new(@out)
      node_file = Standin.path("#{NODES}/#{Standin.fqdn}.json")
      FileUtils.mkdir_p(File.dirname(node_file))
      Dir.glob("#{File.dirname(node_file)}/*.json").each { |file| File.delete(file) }
      # Without "normal" until the run is through: check-config calls that malformed.
      File.write(node_file, JSON.generate('name' => Standin.fqdn), perm: 0o600)

      node = Node.new
      attributes = node.attributes
      refuse_removed(attributes)
      apply(node)
      File.write(node_file, JSON.pretty_generate('name' => Standin.fqdn, 'normal' => attributes), perm: 0o600)
    end

    def apply(node)
      runit = Runit.new(@resources)
      account
      node.rails? ? RailsFiles.new(node, @resources).converge : @resources.recipe('gitlab::gitlab-rails_disable')
      services(node, runit)
    ensure
      # also when the run fails: what has been changed so far is followed by its restarts, as in Chef
      runit.restart(@resources.restarts, @out)
    end

    def services(node, runit)
      Scripts.new(node).each do |name, options, extra|
        @resources.recipe("gitlab::#{options ? name : "#{name}_disable"}")
        options ? runit.enable(name, **options) : runit.disable(name)
        extra&.call(@resources)
      end
      runit.wait_for_new
    end

    def refuse_removed(attributes)
      version = Standin.version_number
      messages = Deprecations.removed(version, version, attributes)
      return if messages.empty?

      @out.puts messages
      raise 'Removed configurations found in gitlab.rb. Aborting reconfigure.'
    end

    def account
      @resources.recipe('gitlab::users')
      @resources.step('account[GitLab user and group] action create') do
        next [] unless Standin.live?

        Etc.getpwnam('git')
        []
      rescue ArgumentError
        system('useradd', '--system', '--user-group', '--no-create-home', '--home-dir', '/var/opt/gitlab',
               '--shell', '/bin/sh', 'git', exception: true)
        ['create user git']
      end
    end

    def open_log(started)
      FileUtils.mkdir_p(Standin.path(LOG), mode: 0o700)
      @log = File.open(Standin.path("#{LOG}/#{started.to_i}.log"), 'a', 0o644)
      @log.sync = $stdout.sync = true
      @out = Tee.new($stdout, @log)
      @out.puts "# #{BANNER}", 'Starting Chef Infra Client, version 18.3.0', 'Infra Phase starting'
    end

    # A second reconfigure waits for the first, as Chef does.
    def one_at_a_time
      lock = Standin.path(LOCK)
      FileUtils.mkdir_p(File.dirname(lock))
      File.open(lock, File::RDWR | File::CREAT, 0o644) do |file|
        unless file.flock(File::LOCK_EX | File::LOCK_NB)
          @out.puts "[#{stamp}] WARN: Chef Infra Client #{file.read} is running, will wait for it to finish and then run."
          file.flock(File::LOCK_EX)
        end
        file.rewind
        file.write(Process.pid)
        file.flush
        yield
      end
    end

    def finish(line)
      @out.puts '', 'Running handlers:', 'Running handlers complete', line
    end

    def failed(error, started)
      title = error.class.name
      @out.puts '', '=' * 80,
                'Recipe Compile Error in /opt/gitlab/embedded/cookbooks/cache/cookbooks/gitlab/recipes/default.rb',
                '=' * 80, '', title, '-' * title.length, error.message, '', 'Cookbook Trace:', '---------------'
      @out.puts(error.backtrace.to_a.grep(%r{/etc/gitlab/}).map { |line| "  #{line}" })
      @out.puts '', 'Running handlers:', "[#{stamp}] ERROR: Running exception handlers", 'Running handlers complete',
                "[#{stamp}] ERROR: Exception handlers complete",
                "Infra Phase failed. #{@resources&.updated || 0} resources updated in " \
                "#{format('%02d', (Time.now - started).to_i)} seconds",
                "[#{stamp}] FATAL: Stacktrace dumped to /opt/gitlab/embedded/cookbooks/cache/chef-stacktrace.out",
                "[#{stamp}] FATAL: #{'-' * 87}",
                "[#{stamp}] FATAL: PLEASE PROVIDE THE CONTENTS OF THE stacktrace.out FILE (above) IF YOU FILE A BUG REPORT",
                "[#{stamp}] FATAL: #{'-' * 87}",
                "[#{stamp}] FATAL: #{title}: #{error.message}"
    end

    def stamp
      Time.now.strftime('%Y-%m-%dT%H:%M:%S%:z')
    end
  end
end
