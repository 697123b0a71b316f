# frozen_string_literal: true

require_relative '../models/oauth_tokens'
require_relative 'errors'
require_relative 'sessions'

module StandinApp
  # What an authorization request asks for, and what is wrong with it (doorkeeper, lib/doorkeeper/oauth/pre_authorization.rb;
  # the order of the checks is the real one).
  class PreAuthorization
    FIELDS = %w[client_id redirect_uri state response_type scope code_challenge code_challenge_method].freeze
    attr_reader :request, :error, :missing

    def initialize(request)
      @request = request
      @error = check
    end

    def application
      @application ||= Authn::OauthApplication.find_by(uid: @request['client_id'].to_s)
    end

    # Nothing asked for: those of GitLab's default scopes (api) that the application has. May be none, and none is invalid.
    def scopes
      return Doorkeeper::OAuth::Scopes.from_string(@request['scope']) if @request['scope']
      return Doorkeeper::OAuth::Scopes.new(Gitlab::Auth::DEFAULT_SCOPES) if application.scopes.empty?

      Doorkeeper::OAuth::Scopes.new(Gitlab::Auth::DEFAULT_SCOPES & application.scopes.to_a)
    end

    # The application's address with these things at its end; empty ones are left out.
    def redirect_to(**query)
      query = URI.encode_www_form(query.merge(state: @request['state']).compact)
      uri = @request['redirect_uri']
      "#{uri}#{uri.include?('?') ? '&' : '?'}#{query}"
    end

    def description
      OauthErrors.description(@error, @missing)
    end

    private

    def check
      return lacking('client_id') unless @request['client_id']
      return 'invalid_client' unless application
      return 'invalid_redirect_uri' unless OauthErrors.redirect_uri_allowed?(@request['redirect_uri'], application.redirect_uri)
      return lacking('response_type') unless @request['response_type']
      return 'unsupported_response_type' unless @request['response_type'] == 'code'
      return 'invalid_scope' unless scopes.valid_within?(allowed_scopes)

      methods = %w[plain S256] # one has to be said, though RFC 7636 has a default
      'invalid_code_challenge_method' if @request['code_challenge'] && !methods.include?(@request['code_challenge_method'])
    end

    def lacking(name)
      @missing = name
      'invalid_request'
    end

    def allowed_scopes
      application.scopes.empty? ? Gitlab::Auth::APPLICATION_SCOPES : application.scopes
    end
  end

  # /oauth/authorize: GitLab's app/controllers/oauth/authorizations_controller.rb and Doorkeeper's below it.
  class Authorizations
    # A user is needed first, whatever the parameters are.
    def call(request)
      session = Session.of(request)
      return Sessions.sign_in_first(request) unless session&.user

      case request.method
      when 'GET' then show(PreAuthorization.new(request), session)
      when 'POST', 'DELETE' then session.genuine?(request) ? decide(request, session) : Sessions.stale
      else Reply.page(404, 'Not Found', '<h1>404: Page not found</h1>')
      end
    end

    private

    # GitLab's own `new`: every error is a page with status 200, invalid_scope included; only Doorkeeper's `create` sends errors
    # back to the application. And a trusted application gets no 302 but a page whose script goes there (both said in
    # spec/controllers/oauth/authorizations_controller_spec.rb).
    def show(asked, session)
      return error_page(asked) if asked.error
      return form(asked, session) unless asked.application.trusted? || granted_before?(asked, session.user)

      session.update!(return_to: nil)
      redirect_page(issue(asked, session.user))
    end

    def decide(request, session)
      asked = PreAuthorization.new(request)
      return error_page(asked) if %w[invalid_client invalid_redirect_uri].include?(asked.error) || asked.missing == 'client_id'
      return Reply.redirect(error_uri(asked, asked.error, asked.description)) if asked.error
      return Reply.redirect(error_uri(asked, 'access_denied', OauthErrors.description('access_denied'))) if request.method == 'DELETE'

      Reply.redirect(issue(asked, session.user))
    end

    def error_uri(asked, error, description)
      asked.redirect_to(error: error, error_description: description)
    end

    # The application's address with a new code.
    def issue(asked, user)
      code = OauthAccessGrant.issue(
        application_id: asked.application.id, resource_owner_id: user.id, scopes: asked.scopes.to_s,
        redirect_uri: asked.request['redirect_uri'], code_challenge: asked.request['code_challenge'],
        code_challenge_method: asked.request['code_challenge_method']
      )
      asked.redirect_to(code: code)
    end

    # A confidential application that has a token with the same scopes is not asked about again.
    def granted_before?(asked, user)
      asked.application.confidential? &&
        OauthAccessToken.where(application_id: asked.application.id, resource_owner_id: user.id).any? do |token|
          token.accessible? && token.scopes.split.sort == asked.scopes.sort
        end
    end

    # app/views/doorkeeper/authorizations/error.html.haml
    def error_page(asked)
      Reply.page(200, 'Error', "<h1>An error has occurred</h1>\n<main role=\"main\"><pre>#{CGI.escapeHTML(asked.description)}</pre></main>")
    end

    # app/views/doorkeeper/authorizations/redirect.html.haml
    def redirect_page(uri)
      link = CGI.escapeHTML(uri)
      Reply.page(200, 'Redirecting', <<~HTML)
        <h1>Redirecting</h1>
        <div><a href="#{link}">Click here to redirect to #{link}</a></div>
        <script>window.location = #{uri.to_json.gsub('<', '\u003c')};</script>
      HTML
    end

    # app/views/doorkeeper/authorizations/new.html.haml
    def form(asked, session)
      fields = Reply.hidden(PreAuthorization::FIELDS.to_h { |name| [name, asked.request[name]] }
                                                    .merge('authenticity_token' => session.csrf))
      Reply.page(200, 'Authorize', <<~HTML)
        <h4>Authorize #{CGI.escapeHTML(asked.application.name)} to use your account?</h4>
        <p>This application will be able to: #{CGI.escapeHTML(asked.scopes.to_s)}</p>
        <form action="/oauth/authorize" method="post">
        #{Reply.hidden('_method' => 'delete')}
        #{fields}
        <button type="submit">Deny</button>
        </form>
        <form action="/oauth/authorize" method="post">
        #{fields}
        <button type="submit">Authorize</button>
        </form>
      HTML
    end
  end
end
