# frozen_string_literal: true

require 'cgi'
require_relative 'api_guard'
require_relative '../models/project'

module StandinApp
  # /projects/:id and its integration "Mattermost slash commands". GitLab: lib/api/integrations.rb.
  class ProjectsApi
    PATH = %r{\A/(?<id>[^/]+)(?<rest>/.*)?\z}
    SLUG = '/integrations/mattermost-slash-commands'
    TRIGGER = '/integrations/mattermost_slash_commands/trigger'

    # `rest`: what follows /api/v4/projects
    def call(guard, request, rest)
      match = PATH.match(rest) || {}
      project = find(match[:id].to_s)
      return trigger(project, request) if match[:rest] == TRIGGER && request.method == 'POST'

      guard.admin!(%w[api])
      return Reply.json(404, { message: '404 Project Not Found' }) unless project
      return Reply.json(200, fields(project)) if match[:rest].nil? && request.method == 'GET'
      return integration(project, request) if match[:rest] == SLUG

      Reply.json(404, { error: '404 Not Found' })
    end

    private

    def find(id)
      id.match?(/\A\d+\z/) ? Project.find_by(id: id.to_i) : Project.find_by(full_path: CGI.unescape(id))
    end

    # A wrong token is 404, so that nobody learns which projects there are.
    def trigger(project, request)
      slash = project&.mattermost_slash_commands_integration
      return Reply.json(404, { message: '404 Not Found' }) unless slash&.active? && slash.token == request['token']

      text = "#{project.full_path} was asked: #{request['text']}"
      Reply.json(200, { response_type: 'ephemeral', text: text })
    end

    def integration(project, request)
      slash = project.mattermost_slash_commands_integration
      case request.method
      when 'PUT'
        return Reply.json(400, { error: 'token is missing' }) unless request['token']

        project.find_or_initialize_integration('mattermost_slash_commands').tap do |made|
          made.assign_attributes(token: request['token'], active: true)
          made.save!
        end
        Reply.json(200, shown)
      when 'GET' then slash ? Reply.json(200, shown) : Reply.json(404, { message: '404 Integration Not Found' })
      else Reply.json(405, { error: '405 Not Allowed' })
      end
    end

    # The token is never shown.
    def shown
      { id: 1, title: 'Mattermost slash commands', slug: 'mattermost-slash-commands', active: true, properties: {} }
    end

    def fields(project)
      { id: project.id, name: project.name, path_with_namespace: project.full_path }
    end
  end
end
