# frozen_string_literal: true

require 'fileutils'

module Standin
  # In place of the migrations of GitLab's database: schema.json, in the folder that the Rails nodes have in common, says
  # up to which version the schema is (regular and post-deployment migrations), and who took it there. What waits in
  # "background" are batched background migrations; a test puts them there.
  module Migrations
    # The class has this name in ActiveRecord; an advisory lock is behind it.
    class ConcurrentMigrationError < StandardError; end

    CONCURRENT = 'Cannot run migrations because another migration process is currently running.'

    module_function

    def folder
      ENV['STANDIN_SHARED'] || Standin.path(SHARED)
    end

    def load
      JSON.parse(File.read("#{folder}/schema.json"))
    rescue Errno::ENOENT
      { 'regular' => nil, 'post' => nil, 'background' => [], 'log' => [] }
    end

    # gitlab-rake db:migrate; with SKIP_POST_DEPLOYMENT_MIGRATIONS only the regular ones. Returns what was done.
    def run
      FileUtils.mkdir_p(folder, mode: 0o700)
      File.open("#{folder}/schema.lock", File::RDWR | File::CREAT, 0o600) do |lock|
        give_away(lock)
        raise ConcurrentMigrationError, CONCURRENT unless lock.flock(File::LOCK_EX | File::LOCK_NB)

        sleep 1 if Standin.live?
        migrate(load)
      end
    end

    def migrate(schema)
      version = Standin.version_number
      done = %w[regular post].select { |kind| schema[kind].nil? || Gem::Version.new(schema[kind]) < version }
      done.delete('post') if skip_post? && schema['post']
      unfinished(schema) if done.include?('regular') && schema['regular']
      done.each { |kind| schema[kind] = version.to_s }
      return done if done.empty?

      schema['log'] << { 'time' => Time.now.utc.to_f, 'node' => Standin.fqdn, 'version' => version.to_s, 'done' => done }
      File.open("#{folder}/schema.json.new", 'w', 0o600) do |file|
        file.write(JSON.pretty_generate(schema))
        give_away(file)
      end
      File.rename("#{folder}/schema.json.new", "#{folder}/schema.json")
      done
    end

    def skip_post?
      !['', 'false', '0'].include?(ENV.fetch('SKIP_POST_DEPLOYMENT_MIGRATIONS', ''))
    end

    # lib/gitlab/database/migrations/batched_background_migration_helpers.rb, ensure_batched_background_migration_is_finished
    def unfinished(schema)
      return if schema['background'].empty?

      raise "Expected batched background migration for the given configuration to be marked as 'finished', but it is " \
            "'active': #{schema['background'].first}"
    end

    def give_away(file)
      return unless Process.uid.zero? && Standin.live?

      owner = File.stat(folder)
      file.chown(owner.uid, owner.gid)
    end
  end
end
