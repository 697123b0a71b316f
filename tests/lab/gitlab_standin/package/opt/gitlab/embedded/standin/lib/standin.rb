# frozen_string_literal: true

# STAND-IN for the GitLab Linux package: shared ground of all its commands.
# Everything that touches the file system goes through Standin.path, so that a
# test can run the whole thing below a folder of its own (STANDIN_ROOT).
module Standin
  BANNER = 'This is a STAND-IN for the GitLab Linux package, made for the lab of pyinfra-gitlab. It is not GitLab.'
  RAILS = '/opt/gitlab/embedded/service/gitlab-rails'
  RAILS_DIR = '/var/opt/gitlab/gitlab-rails'
  ETC = "#{RAILS_DIR}/etc"
  # In place of a database; the lab mounts it on all Rails nodes (standin_app/state.rb reads and writes it).
  SHARED = '/var/opt/gitlab/standin-shared'
  SECRETS = '/etc/gitlab/gitlab-secrets.json'

  module_function

  def root
    ENV.fetch('STANDIN_ROOT', '')
  end

  # Nothing is started, stopped or chowned below a test's own root.
  def live?
    root.empty?
  end

  def path(name)
    root + name
  end

  # '18.11.11-ee' as in the real VERSION file of gitlab-rails.
  def version
    File.read(path("#{RAILS}/VERSION")).strip
  end

  def version_number
    Gem::Version.new(version[/\A[\d.]+/])
  end

  def fqdn
    return 'node.test' unless live?

    name = `hostname -f 2>/dev/null`.strip
    name.empty? ? `hostname`.strip : name
  end
end

require 'json'
require 'yaml'
require 'uri'
require 'fileutils'
require_relative 'standin/mash'
require_relative 'standin/config_file'
require_relative 'standin/roles'
require_relative 'standin/defaults'
require_relative 'standin/secrets'
require_relative 'standin/node'
require_relative 'standin/deprecations'
require_relative 'standin/resources'
require_relative 'standin/runit'
require_relative 'standin/rails_files'
require_relative 'standin/migrations'
require_relative 'standin/reconfigure'
