# frozen_string_literal: true

require_relative 'api_guard'

module StandinApp
  # /applications. GitLab: lib/api/applications.rb and lib/api/entities/application*.rb. The list has no pages there: all of it
  # comes at once, whatever `page` says, and without the X-... headers.
  class ApplicationsApi
    READ = %w[api read_api].freeze
    WRITE = %w[api].freeze
    PATH = %r{\A/(?<id>[^/]+)(?<renew>/renew-secret)?\z}

    # `rest`: what follows /api/v4/applications
    def call(guard, request, rest)
      guard.admin!(request.method == 'GET' ? READ : WRITE)
      match = PATH.match(rest)
      return one(request, match) if match
      return Reply.json(404, { error: '404 Not Found' }) unless rest.empty?

      case request.method
      when 'GET' then Reply.json(200, Authn::OauthApplication.all.map { |application| fields(application) })
      when 'POST' then create(request)
      else not_allowed('GET, HEAD, OPTIONS, POST')
      end
    end

    private

    def one(request, match)
      wanted = match[:renew] ? 'POST' : 'DELETE'
      return not_allowed("OPTIONS, #{wanted}") unless request.method == wanted
      return Reply.json(400, { error: 'id is invalid' }) unless match[:id].match?(/\A\d+\z/)

      application = Authn::OauthApplication.find_by(id: match[:id].to_i)
      return Reply.json(404, { message: '404 Application Not Found' }) unless application

      match[:renew] ? renew(application) : delete(application)
    end

    def delete(application)
      application.destroy
      [204, {}, '']
    end

    def renew(application)
      application.renew_secret
      application.save ? Reply.json(201, with_secret(application)) : invalid(application)
    end

    # Only these are looked at: an application of the API is never trusted.
    def create(request)
      complaints = complaints_about(request)
      return Reply.json(400, { error: complaints.join(', ') }) unless complaints.empty?

      confidential = request['confidential']
      application = Authn::OauthApplication.new(
        name: request.params['name'], redirect_uri: request.params['redirect_uri'], scopes: request['scopes'],
        confidential: confidential.nil? || %w[true 1].include?(confidential.to_s)
      )
      application.save ? Reply.json(201, with_secret(application)) : invalid(application)
    end

    # Grape's words.
    def complaints_about(request)
      missing = %w[name redirect_uri scopes].reject { |name| request.params.key?(name) }.map { |name| "#{name} is missing" }
      request['scopes'].to_s.strip.empty? ? missing + ['scopes is empty'] : missing
    end

    def invalid(application)
      Reply.json(400, { message: application.errors.messages })
    end

    def not_allowed(allow)
      Reply.json(405, { error: '405 Not Allowed' }, 'allow' => allow)
    end

    def fields(application)
      { id: application.id, application_id: application.uid, application_name: application.name,
        callback_url: application.redirect_uri, confidential: application.confidential, scopes: application.scopes.to_a }
    end

    def with_secret(application)
      fields(application).merge(secret: application.plaintext_secret)
    end
  end
end
