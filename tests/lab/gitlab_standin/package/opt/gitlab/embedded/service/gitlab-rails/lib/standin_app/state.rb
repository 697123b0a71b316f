# frozen_string_literal: true

require 'fileutils'
require 'json'

module StandinApp
  # STAND-IN for GitLab's PostgreSQL and Redis: one JSON file, in a folder that all Rails nodes have in common. Nothing of
  # it is kept in memory, because a load balancer sends each request of one sign-in to another node.
  module State
    FILE = 'state.json'
    LOCK = 'state.lock'
    TABLES = %w[
      users personal_access_tokens oauth_applications oauth_access_grants oauth_access_tokens sessions projects
    ].freeze

    module_function

    # STANDIN_SHARED: for tests.
    def folder
      ENV['STANDIN_SHARED'] || "#{ENV.fetch('STANDIN_ROOT', '')}/var/opt/gitlab/standin-shared"
    end

    # Yields all tables ({name => [rows]}) while nobody else, on whichever node, reads or writes. Written back unless the
    # block raises. One transaction inside another is part of the outer one.
    def transaction
      open_already = Thread.current[:standin_state]
      return yield(open_already) if open_already

      exclusively do
        data = load
        before = JSON.generate(data)
        begin
          Thread.current[:standin_state] = data
          result = yield data
        ensure
          Thread.current[:standin_state] = nil
        end
        after = JSON.generate(data)
        store(after) if after != before || !File.exist?(path)
        result
      end
    end

    def path
      File.join(folder, FILE)
    end

    def exclusively
      FileUtils.mkdir_p(folder, mode: 0o700)
      File.open(File.join(folder, LOCK), File::RDWR | File::CREAT, 0o600) do |lock|
        give_away(lock)
        lock.flock(File::LOCK_EX)
        yield
      end
    end

    def load
      data = File.exist?(path) ? JSON.parse(File.read(path)) : {}
      TABLES.each { |name| data[name] ||= [] }
      data['ids'] ||= {}
      data['users'] = Seeds.users if data['users'].empty?
      data['projects'] = Seeds.projects if data['projects'].empty?
      data
    end

    # Renamed into its place: who reads without the lock (a person) never sees half of it.
    def store(text)
      File.open("#{path}.new", 'w', 0o600) do |file|
        file.write(text)
        give_away(file)
      end
      File.rename("#{path}.new", path)
    end

    # puma runs as root where it has to read a TLS key; the runner (git) must still be able to work with the files.
    def give_away(file)
      return unless Process.uid.zero?

      owner = File.stat(folder)
      file.chown(owner.uid, owner.gid)
    end
  end

  # Who is there in the beginning. The passwords are the lab's, and said in the README.
  module Seeds
    USERS = [
      { 'id' => 1, 'username' => 'root', 'name' => 'Administrator', 'admin' => true, 'state' => 'active' },
      { 'id' => 42, 'username' => 'alice', 'name' => 'Alice Liddell', 'admin' => false, 'state' => 'active' },
      { 'id' => 43, 'username' => 'bob', 'name' => 'Bob', 'admin' => false, 'state' => 'blocked' }
    ].freeze

    module_function

    def projects
      [{ 'id' => 7, 'name' => 'myproject', 'full_path' => 'mygroup/myproject', 'slash_token' => nil, 'slash_active' => false,
         'created_at' => '2026-01-01T00:00:00.000Z' }]
    end

    def users
      USERS.map do |user|
        name = user['username']
        user.merge('email' => "#{name}@lab.test", 'password' => "password-of-#{name}-in-the-lab",
                   'created_at' => '2026-01-01T00:00:00.000Z')
      end
    end
  end
end
