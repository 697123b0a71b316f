# frozen_string_literal: true

require 'etc'
require 'net/imap'
require 'tempfile'

module Standin
  # `gitlab-rake <task>`: only the tasks that the product calls.
  class Rake
    SECRET = /\Agitlab:(incoming_email|service_desk_email):secret:(write|show|edit)\z/

    def initialize(mail_room)
      @mail_room = mail_room
    end

    def run(task)
      case task
      when 'gitlab:incoming_email:check' then check
      when 'db:migrate', 'gitlab:db:configure' then migrate
      when SECRET then secret($1, $2)
      else
        warn "rake aborted!\nDon't know how to build task '#{task}' (#{BANNER})"
        return 1
      end
      0
    end

    private

    def migrate
      done = Migrations.run
      puts(done.map { |kind| "== #{kind} migrations of #{Standin.version}: migrated" })
    rescue StandardError => e
      warn 'rake aborted!', "#{e.class}: #{e.message}"
      exit 1
    end

    # Like the real one: what it finds wrong is on the screen, the exit code is 0 all the same.
    def check
      puts 'Checking Incoming Email ...', '', 'Incoming Email: ... '
      if @mail_room.gitlab_yml.dig('incoming_email', 'enabled')
        check_reply_by_email
      else
        puts 'Reply by email is disabled in config/gitlab.yml'
      end
      puts '', 'Checking Incoming Email ... Finished', ''
    end

    def check_reply_by_email
      puts 'Checking Reply by email ...', ''
      print 'IMAP server credentials are correct? ... '
      @mail_room.enabled_configs.each_value { |config| puts "Checking #{config['user']}" }
      errors = @mail_room.enabled_configs.values.filter_map { |config| login_error(config) }
      if errors.empty?
        puts 'yes'
      else
        puts 'no', '  Try fixing it:', '  Check that the information in config/gitlab.yml is correct',
             "  An error occurred: #{errors.join('; ')}", '  Please fix the error above and rerun the checks.'
      end
      puts 'Mailroom enabled? ... skipped', "MailRoom running? ... can't check because of previous errors", '',
           'Checking Reply by email ... Finished'
    end

    def login_error(config)
      imap = Net::IMAP.new(config['host'], port: config['port'], ssl: config['ssl'])
      imap.starttls if config['start_tls']
      imap.login(config['user'], config['password'])
      nil
    rescue StandardError => e
      "#{e.class}: #{e.message}"
    ensure
      imap&.disconnect
    end

    # Every failure is a message on standard error and exit code 0 (facts, A6).
    def secret(type, verb)
      settings = Gitlab::EncryptedSettings.new(type, @mail_room.gitlab_yml, @mail_room::ROOT)
      case verb
      when 'show' then show(settings, type)
      when 'write' then write(settings, type, $stdin.read)
      when 'edit' then edit(settings, type)
      end
    rescue Gitlab::EncryptedSettings::MissingKeyError, Gitlab::EncryptedSettings::InvalidFileError => e
      warn e.message
    end

    def show(settings, type)
      return puts settings.read if settings.exist?

      puts "File '#{settings.path}' does not exist. Use `gitlab-rake gitlab:#{type}:secret:edit` to change that."
    end

    def write(settings, type, content)
      directory = File.dirname(settings.path)
      return warn "Directory #{directory} does not exist. Create the directory and try again." unless File.directory?(directory)

      settings.read if settings.exist?
      settings.write(content)
      puts 'File encrypted and saved.'
      values = YAML.safe_load(content)
      warn "WARNING: Content was not a valid #{type} secret yml file." unless values.is_a?(Hash)
    rescue Psych::SyntaxError => e
      warn "WARNING: Content was not a valid #{type} secret yml file. #{e.message}"
    end

    def edit(settings, type)
      editor = ENV.fetch('EDITOR', '')
      if editor.empty?
        return warn 'No $EDITOR specified to open file. Please provide one when running the command: ' \
                    "gitlab-rake gitlab:#{type}:secret:edit EDITOR=vim"
      end

      Tempfile.create(type) do |file|
        file.write(settings.exist? ? settings.read : "# user: '#{type}'\n# password: '123'\n")
        file.flush
        system(editor, file.path)
        write(settings, type, File.read(file.path))
      end
    end
  end
end
