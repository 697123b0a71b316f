# frozen_string_literal: true

require_relative 'record'

# STAND-IN for app/models/project.rb: one project is there from the beginning.
class Project < StandinApp::Record
  columns_of 'projects', name: nil, full_path: nil, slash_token: nil, slash_active: false

  alias path_with_namespace full_path

  # app/models/integrations/mattermost_slash_commands.rb: what of it is asked for.
  class SlashCommands
    attr_accessor :token, :active

    def initialize(project)
      @project = project
      @token = project.slash_token
      @active = project.slash_active
    end

    def assign_attributes(attributes = {})
      attributes.each { |name, value| public_send(:"#{name}=", value) }
    end

    def save!
      @project.update!(slash_token: token, slash_active: active)
    end

    def active?
      active ? true : false
    end
  end

  def mattermost_slash_commands_integration
    slash_token && SlashCommands.new(self)
  end

  def find_or_initialize_integration(name)
    SlashCommands.new(self) if name == 'mattermost_slash_commands'
  end
end
