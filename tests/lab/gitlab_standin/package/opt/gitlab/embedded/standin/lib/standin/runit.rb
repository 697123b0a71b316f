# frozen_string_literal: true

module Standin
  # Services under runit, laid out as in the real package: /opt/gitlab/sv/<name> (run scripts),
  # /opt/gitlab/init/<name> (runit's sv under the service's name), /opt/gitlab/service/<name> (a link = enabled).
  class Runit
    SV = '/opt/gitlab/sv'
    SERVICE = '/opt/gitlab/service'
    INIT = '/opt/gitlab/init'

    def initialize(resources)
      @resources = resources
      @fresh = []
    end

    # Writes the scripts; a changed one restarts the service.
    def enable(name, run:, finish: nil, log_dir: "/var/log/gitlab/#{name}", log_owner: 'root')
      @resources.directory(log_dir, owner: log_owner, mode: 0o700)
      @resources.directory("#{SV}/#{name}/log", mode: 0o755)
      @resources.template("#{SV}/#{name}/run", run, mode: 0o755, notifies: [name])
      @resources.template("#{SV}/#{name}/finish", finish, mode: 0o755) if finish
      @resources.template("#{SV}/#{name}/log/run", log_run(log_dir), mode: 0o755)
      @resources.link("#{INIT}/#{name}", '/opt/gitlab/embedded/bin/sv')
      @fresh << name if @resources.link("#{SERVICE}/#{name}", "#{SV}/#{name}")
    end

    # As runit_service's :disable does: asks for down *without waiting*, then the link goes (and runsvdir ends the
    # supervision). When reconfigure is through, the process may still be there for a while.
    def disable(name)
      link = Standin.path("#{SERVICE}/#{name}")
      @resources.step("runit_service[#{name}] action disable") do
        next [] unless File.symlink?(link)

        sv('down', name)
        File.delete(link)
        ['disable service']
      end
    end

    # runsvdir looks for new links every five seconds.
    def wait_for_new
      return unless Standin.live?

      deadline = Time.now + 20
      sleep 0.1 until @fresh.all? { |name| supervised?(name) } || Time.now > deadline
      missing = @fresh.reject { |name| supervised?(name) }
      raise "unable to open supervise/ok of #{missing.join(', ')}: is gitlab-runsvdir running?" unless missing.empty?

      # one that was disabled a moment ago is still supervised, and wanted down
      @fresh.each { |name| sv('up', name) }
    end

    # Delayed notifications of the run; what has only just been started needs none.
    def restart(names, out)
      (names - @fresh).each do |name|
        next unless File.symlink?(Standin.path("#{SERVICE}/#{name}"))

        out.puts "Recipe: gitlab::#{name}"
        out.puts "  * runit_service[#{name}] action restart"
        sv('-w', '60', 'restart', name)
        out.puts "    - restart service runit_service[#{name}]"
      end
    end

    private

    # The pipe outlives its runsv; only with a reader at its other end is the service supervised.
    def supervised?(name)
      File.open("#{SV}/#{name}/supervise/ok", File::WRONLY | File::NONBLOCK).close
      true
    rescue SystemCallError
      false
    end

    def sv(*command, name)
      return unless Standin.live?

      output = IO.popen(['/opt/gitlab/embedded/bin/sv', *command, "#{SERVICE}/#{name}"], err: %i[child out], &:read)
      raise "Expected process to exit with [0], but received '#{$?.exitstatus}'\n#{output}" unless $?.success?
    end

    def log_run(directory)
      <<~SH
        #!/bin/sh
        exec chpst -P svlogd -tt #{directory}
      SH
    end
  end
end
