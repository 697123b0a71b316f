# frozen_string_literal: true

require_relative 'applications_api'
require_relative 'projects_api'
require_relative 'users_api'

module StandinApp
  # The routes below /api/v4 that are there (but for mail_room's, which has no user).
  class Api
    NOT_FOUND = [404, Reply::JSON_TYPE, '{"error":"404 Not Found"}'].freeze
    NOT_ALLOWED = [405, Reply::JSON_TYPE.merge('allow' => 'GET, HEAD, OPTIONS'), '{"error":"405 Not Allowed"}'].freeze

    def initialize(gitlab_url, version)
      @users = UsersApi.new(gitlab_url)
      @applications = ApplicationsApi.new
      @projects = ProjectsApi.new
      @version = version
    end

    def call(request)
      guard = ApiGuard.new(request)
      path = request.path.delete_prefix('/api/v4')
      return @applications.call(guard, request, path.delete_prefix('/applications')) if path.match?(%r{\A/applications(/|\z)})

      return @projects.call(guard, request, path.delete_prefix('/projects')) if path.start_with?('/projects/')

      handler = reader(path, guard, request)
      return NOT_FOUND unless handler

      request.method == 'GET' ? handler.call : NOT_ALLOWED
    rescue ApiGuard::Refused => e
      e.reply
    end

    private

    def reader(path, guard, request)
      case path
      when '/version', '/metadata' then -> { version(guard) }
      when '/user' then -> { @users.current(guard) }
      when '/users' then -> { @users.index(guard, request) }
      when %r{\A/users/(\d+)\z} then $1.to_i.then { |id| -> { @users.show(guard, id) } }
      end
    end

    def version(guard)
      guard.user!(%w[api read_api read_user ai_features])
      Reply.json(200, { version: @version, revision: 'standin', kas: { enabled: false, externalUrl: nil, version: nil },
                        enterprise: @version.end_with?('-ee') })
    end
  end
end
