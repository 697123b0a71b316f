# frozen_string_literal: true

require 'digest'
require 'etc'
require 'open3'
require 'tempfile'

module Standin
  # Files, folders and links with the console output of a Chef run. A change names the services
  # that have to be restarted because of it.
  class Resources
    attr_reader :updated, :total, :restarts

    def initialize(out)
      @out = out
      @updated = 0
      @total = 0
      @restarts = []
    end

    def recipe(name)
      @out.puts "Recipe: #{name}"
    end

    def directory(path, owner: 'root', group: owner, mode: 0o755)
      real = Standin.path(path)
      step("directory[#{path}] action create") do
        changes = []
        unless File.directory?(real)
          FileUtils.mkdir_p(real)
          changes << "create new directory #{path}"
        end
        changes + permissions(real, owner, group, mode)
      end
    end

    # sensitive: the difference is not shown. (gitlab.yml is *not* sensitive in the real package: its
    # difference, passwords included, goes to the screen and to the reconfigure log.)
    def template(path, content, owner: 'root', group: owner, mode: 0o644, sensitive: false, notifies: [])
      real = Standin.path(path)
      content = content.b
      changed = step("template[#{path}] action create") do
        changes = []
        old = File.exist?(real) ? File.binread(real) : nil
        if old != content
          changes << "#{old ? 'update' : 'create'} content in file #{path} from #{sha(old)} to #{sha(content)}"
          changes.concat(sensitive ? ['suppressed sensitive resource'] : difference(old, content))
          replace(real, content, mode)
        end
        changes + permissions(real, owner, group, mode)
      end
      @restarts |= notifies if changed
      changed
    end

    def link(path, target)
      real = Standin.path(path)
      step("link[#{path}] action create") do
        next [] if File.symlink?(real) && File.readlink(real) == Standin.path(target)

        FileUtils.rm_f(real)
        File.symlink(Standin.path(target), real)
        ["create symlink at #{path} to #{target}"]
      end
    end

    def delete(path)
      real = Standin.path(path)
      step("file[#{path}] action delete") do
        next [] unless File.exist?(real) || File.symlink?(real)

        File.delete(real)
        ["delete file #{path}"]
      end
    end

    def skipped(what)
      @total += 1
      @out.puts "  * #{what} (skipped due to only_if)"
    end

    # The block does the work and returns what it changed, in words.
    def step(what)
      @total += 1
      changes = yield
      if changes.empty?
        @out.puts "  * #{what} (up to date)"
        return false
      end
      @out.puts "  * #{what}"
      changes.each { |change| @out.puts "    - #{change}" }
      @updated += 1
      true
    end

    private

    def sha(content)
      content ? Digest::SHA256.hexdigest(content)[0, 6] : 'none'
    end

    def replace(real, content, mode)
      FileUtils.mkdir_p(File.dirname(real))
      temporary = "#{real}.new"
      File.open(temporary, 'wb', mode) { |file| file.write(content) }
      File.rename(temporary, real)
    end

    def difference(old, content)
      Tempfile.create('old') do |before|
        Tempfile.create('new') do |after|
          before.write(old.to_s)
          after.binmode.write(content)
          [before, after].each(&:flush)
          text, = Open3.capture2('diff', '-u', '--label', 'old', '--label', 'new', before.path, after.path)
          text.lines.map(&:chomp)
        end
      end
    end

    def permissions(real, owner, group, mode)
      changes = []
      stat = File.stat(real)
      if stat.mode & 0o7777 != mode
        File.chmod(mode, real)
        changes << format("change mode from '%<old>04o' to '%<new>04o'", old: stat.mode & 0o7777, new: mode)
      end
      return changes unless Standin.live?

      uid = Etc.getpwnam(owner).uid
      gid = Etc.getgrnam(group).gid
      changes << "change owner to '#{owner}'" if stat.uid != uid
      changes << "change group to '#{group}'" if stat.gid != gid
      File.chown(uid, gid, real) if stat.uid != uid || stat.gid != gid
      changes
    end
  end
end
