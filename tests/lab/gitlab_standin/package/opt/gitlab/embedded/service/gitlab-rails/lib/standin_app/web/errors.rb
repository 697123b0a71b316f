# frozen_string_literal: true

module StandinApp
  # Doorkeeper's errors in GitLab's words (config/locales/doorkeeper.en.yml).
  module OauthErrors
    DESCRIPTIONS = {
      'invalid_request' => 'The request is missing a required parameter, includes an unsupported parameter value, ' \
                           'or is otherwise malformed.',
      'invalid_redirect_uri' => 'The redirect URI included is not valid.',
      'access_denied' => 'The resource owner or authorization server denied the request.',
      'invalid_scope' => 'The requested scope is invalid, unknown, or malformed.',
      'invalid_code_challenge_method' => 'The code challenge method must be plain or S256.',
      'unsupported_response_type' => 'The authorization server does not support this response type.',
      'invalid_client' => 'Client authentication failed due to unknown client, no client authentication included, ' \
                          'or unsupported authentication method.',
      'invalid_grant' => 'The provided authorization grant is invalid, expired, revoked, does not match the redirection URI ' \
                         'used in the authorization request, or was issued to another client.',
      'unsupported_grant_type' => 'The authorization grant type is not supported by the authorization server.'
    }.freeze

    module_function

    # doorkeeper, lib/doorkeeper/oauth/invalid_request_response.rb
    def description(name, missing = nil)
      missing ? "Missing required parameter: #{missing}." : DESCRIPTIONS.fetch(name)
    end

    # doorkeeper, lib/doorkeeper/oauth/helpers/uri_checker.rb: one of the application's lines, exactly.
    def redirect_uri_allowed?(uri, allowed)
      allowed.to_s.split.include?(uri.to_s)
    end
  end
end
