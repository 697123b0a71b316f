# frozen_string_literal: true

require_relative '../models/oauth_tokens'
require_relative 'request'

module StandinApp
  # Who calls the API, and may they? GitLab: lib/gitlab/auth/auth_finders.rb and lib/api/api_guard.rb.
  class ApiGuard
    # Ends a request with this answer.
    class Refused < StandardError
      attr_reader :reply

      def initialize(reply)
        @reply = reply
        super(reply.first.to_s)
      end
    end

    HIGHER = 'The request requires higher privileges than provided by the access token.'
    EXPIRED = 'Token is expired. You can either do re-authorization or token refresh.'
    REVOKED = 'Token was revoked. You have to re-authorize from the user.'

    def initialize(request)
      @request = request
    end

    # The user, or Refused. `scopes`: one of them is needed.
    def user!(scopes)
      token = find || refuse(401, message: '401 Unauthorized')
      refuse(401, error: 'invalid_token', error_description: EXPIRED) if token.expired?
      refuse(401, error: 'invalid_token', error_description: REVOKED) if token.revoked?
      check_scopes(token, scopes)
      token.revoke_previous_refresh_token! if token.is_a?(OauthAccessToken)
      user = token.user || refuse(401, message: '401 Unauthorized')
      refuse(403, message: '403 Forbidden - Your account has been blocked.') unless user.active?
      user
    end

    def admin!(scopes)
      user!(scopes).tap { |user| refuse(403, message: '403 Forbidden') unless user.admin? }
    end

    private

    def refuse(status, **body)
      raise Refused, Reply.json(status, body)
    end

    # A personal token may also come as a Bearer token.
    def find
      bearer = @request.bearer_token || @request['access_token']
      found = bearer && OauthAccessToken.by_token(bearer)
      return found if found

      personal = @request['private_token'] || @request.header('PRIVATE-TOKEN') || bearer
      personal && PersonalAccessToken.find_by_token(personal)
    end

    def check_scopes(token, scopes)
      words = token.scopes.is_a?(String) ? token.scopes.split : token.scopes
      return unless (words & scopes).empty?

      refuse(403, error: 'insufficient_scope', error_description: HIGHER, scope: scopes.join(' '))
    end
  end
end
