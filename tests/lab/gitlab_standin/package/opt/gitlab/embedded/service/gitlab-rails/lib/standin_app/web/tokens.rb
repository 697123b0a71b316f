# frozen_string_literal: true

require_relative '../models/oauth_tokens'
require_relative 'errors'
require_relative 'request'

module StandinApp
  # POST /oauth/token (doorkeeper, lib/doorkeeper/oauth/authorization_code_request.rb and refresh_token_request.rb; the order of
  # the checks is the real one: the client comes before the code).
  class Tokens
    # 401 for the client, 400 for all else (doorkeeper, lib/doorkeeper/oauth/error_response.rb).
    class Refused < StandardError
      attr_reader :name

      def initialize(name, missing = nil)
        @name = name
        super(OauthErrors.description(name, missing))
      end

      def status
        %w[invalid_client unauthorized_client].include?(name) ? 401 : 400
      end
    end

    def create(request)
      token = State.transaction { grant(request) }
      Reply.json(200, body(token), 'cache-control' => 'no-store, no-cache')
    rescue Refused => e
      realm = %(Bearer realm="Doorkeeper", error="#{e.name}", error_description="#{e.message}")
      Reply.json(e.status, { error: e.name, error_description: e.message },
                 'cache-control' => 'no-store, no-cache', 'www-authenticate' => realm)
    end

    private

    # One node at a time from the look at the code to its end: it is good for one token.
    def grant(request)
      case request['grant_type']
      when nil then raise Refused.new('invalid_request', 'grant_type')
      when 'authorization_code' then from_code(request)
      when 'refresh_token' then from_refresh_token(request)
      else raise Refused, 'unsupported_grant_type'
      end
    end

    def from_code(request)
      %w[code redirect_uri].each { |name| raise Refused.new('invalid_request', name) unless request[name] }
      grant = OauthAccessGrant.by_token(request['code'])
      raise Refused.new('invalid_request', 'code_verifier') if grant&.uses_pkce? && !request['code_verifier']

      application = client(request) || raise(Refused, 'invalid_client')
      raise Refused, 'invalid_grant' unless usable?(grant, application, request)

      grant.revoke
      OauthAccessToken.issue(application_id: application.id, resource_owner_id: grant.resource_owner_id, scopes: grant.scopes)
    end

    def usable?(grant, application, request)
      grant && grant.application_id == application.id && grant.accessible? &&
        grant.redirect_uri == request['redirect_uri'] && grant.verified_by?(request['code_verifier'])
    end

    def from_refresh_token(request)
      raise Refused.new('invalid_request', 'refresh_token') unless request['refresh_token']

      old = OauthAccessToken.by_refresh_token(request['refresh_token'])
      raise Refused, 'invalid_grant' if old.nil? || old.revoked?

      application = client(request) || raise(Refused, 'invalid_client')
      raise Refused, 'invalid_grant' if old.application_id != application.id

      OauthAccessToken.issue(application_id: old.application_id, resource_owner_id: old.resource_owner_id,
                             scopes: narrowed(old, request), previous_refresh_token: old.refresh_token)
    end

    def narrowed(old, request)
      return old.scopes unless request['scope']

      scopes = Doorkeeper::OAuth::Scopes.from_string(request['scope'])
      raise Refused, 'invalid_scope' unless scopes.valid_within?(old.scopes.split)

      scopes.to_s
    end

    # HTTP Basic first, then the parameters.
    def client(request)
      uid, secret = request.basic_credentials || [request['client_id'], request['client_secret']]
      uid && Authn::OauthApplication.by_uid_and_secret(uid, secret)
    end

    # doorkeeper, lib/doorkeeper/oauth/token_response.rb
    def body(token)
      { access_token: token.plaintext_token, token_type: 'Bearer', expires_in: token.expires_in,
        refresh_token: token.plaintext_refresh_token, scope: token.scopes, created_at: Time.parse(token.created_at).to_i }
    end
  end
end
