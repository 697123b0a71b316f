# frozen_string_literal: true

# STAND-IN for GitLab's Rails application. gitlab.yml is read here, so one that is no YAML keeps puma from starting.
require_relative 'lib/standin_app/app'

$stdout.sync = true
run StandinApp::App.new
