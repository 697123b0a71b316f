# frozen_string_literal: true

require 'etc'

module Standin
  # `gitlab-rails runner [-e ENVIRONMENT] CODE|FILE|-`, as railties' lib/rails/commands/runner/runner_command.rb has it.
  module RailsRunner
    USAGE = 'You must specify code, a file or - (standard input) to run: gitlab-rails runner CODE|FILE|-'

    module_function

    class << self
      attr_reader :code, :file
    end

    # Becomes git, goes where the real wrapper goes (so a relative path is one below Rails), and loads the models.
    def prepare
      rails = Standin.path(RAILS)
      unless File.exist?("#{rails}/config/gitlab.yml")
        warn 'It looks like GitLab Rails is not configured on this node yet; run `gitlab-ctl reconfigure` first.'
        exit 1
      end
      become_git if Process.uid.zero? && Standin.live?
      Dir.chdir(rails)
      Encoding.default_external = Encoding::UTF_8
      require "#{rails}/lib/standin_app/models/oauth_tokens"
      require "#{rails}/lib/standin_app/models/project"
      require "#{rails}/lib/standin_app/models/application_record"
    end

    def become_git
      git = Etc.getpwnam('git')
      Process.initgroups('git', git.gid)
      Process::Sys.setgid(git.gid)
      Process::Sys.setuid(git.uid)
    end

    # The name of a file that git cannot see is taken for code, in the real one too. What follows is the code's own arguments.
    def read(arguments)
      arguments = arguments.drop(arguments.first.include?('=') ? 1 : 2) if arguments.first.to_s.match?(/\A(-e|--environment)/)
      text = arguments.first || abort(USAGE)
      @file, @code = if text == '-' then ['stdin', $stdin.read]
                     elsif File.exist?(text) then [text, File.read(text)]
                     else ['(gitlab-rails runner)', text]
                     end
      ARGV.replace(arguments.drop(1))
    end
  end
end
