# frozen_string_literal: true

require 'digest'
require 'securerandom'
require_relative '../models/user'
require_relative 'request'

module StandinApp
  # One row per browser. In GitLab it lies in Redis under the digest of the cookie (which is why all nodes know it), here too.
  class Session < Record
    COOKIE = '_gitlab_session'
    LIFETIME = 7 * 86_400
    MOST_WITHOUT_USER = 200

    columns_of 'sessions', digest: nil, user_id: nil, return_to: nil, csrf: nil
    attr_reader :cookie

    def self.of(request)
      text = request.cookie(COOKIE)
      find_by(digest: Digest::SHA256.hexdigest(text)) if text
    end

    def self.start(**attributes)
      forget_old
      new(csrf: SecureRandom.urlsafe_base64(32), **attributes).tap do |session|
        session.renew
        session.save!
      end
    end

    # Redis lets them expire; here the newest are kept. (A load balancer that looks at the sign-in page makes one each time.)
    def self.forget_old
      State.transaction do |data|
        rows = data[table]
        rows.reject! { |row| Time.parse(row['created_at']) < Time.now - LIFETIME }
        nobody = rows.select { |row| row['user_id'].nil? }
        nobody.first([nobody.size - MOST_WITHOUT_USER, 0].max).each { |row| rows.delete(row) }
      end
    end

    # Gives the browser a new cookie.
    def renew
      @cookie = SecureRandom.hex(16)
      self.digest = Digest::SHA256.hexdigest(@cookie)
    end

    # A header only if the browser does not have the cookie yet.
    def headers(request)
      return {} unless @cookie

      { 'set-cookie' => "#{COOKIE}=#{@cookie}; path=/; HttpOnly; SameSite=Lax#{'; secure' if request.https?}" }
    end

    # A user who is blocked meanwhile is signed out, as Devise does with each request.
    def user
      found = user_id && User.find_by(id: user_id)
      found if found&.active?
    end

    def genuine?(request)
      OpenSSL.secure_compare(csrf, request['authenticity_token'].to_s)
    end
  end

  # /users/sign_in and /users/sign_out: Devise, cut down to a password.
  class Sessions
    INVALID = 'Invalid login or password.'
    STALE = 'The change you requested was rejected.'

    # GitLab's 422.html
    def self.stale
      Reply.page(422, STALE, "<h1>422: #{STALE}</h1>")
    end

    # Where a page that needs a user sends a browser without one.
    def self.sign_in_first(request)
      session = Session.of(request) || Session.start
      session.update!(return_to: request.full_path)
      Reply.redirect("#{request.base_url}/users/sign_in", session.headers(request))
    end

    def show(request, alert: nil, login: nil)
      session = Session.of(request) || Session.start
      return Reply.redirect("#{request.base_url}/") if session.user

      Reply.page(200, 'Sign in', form(session, alert, login), session.headers(request))
    end

    def create(request)
      session = Session.of(request)
      return self.class.stale unless session&.genuine?(request)

      user = User.find_by_login(request['user[login]'])
      return show(request, alert: INVALID, login: request['user[login]']) unless user&.valid_password?(request['user[password]'])
      return show(request, alert: User::BLOCKED_MESSAGE, login: user.username) unless user.active?

      sign_in(request, session, user)
    end

    def destroy(request)
      session = Session.of(request)
      return self.class.stale unless session&.genuine?(request)

      session.destroy
      Reply.redirect("#{request.base_url}/users/sign_in")
    end

    def home(request)
      session = Session.of(request)
      user = session&.user
      return Reply.redirect('/users/sign_in') unless user

      Reply.page(200, 'Home', "<h1>Not GitLab</h1>\n<p>Signed in as #{CGI.escapeHTML(user.username)}.</p>\n" \
                              '<form action="/users/sign_out" method="post">' \
                              "#{Reply.hidden('authenticity_token' => session.csrf)}\n" \
                              '<button type="submit">Sign out</button></form>')
    end

    private

    # The old cookie is worth nothing any more (session fixation); the address is for this once.
    def sign_in(request, session, user)
      target = session.return_to || '/'
      session.renew
      session.update!(user_id: user.id, return_to: nil, csrf: SecureRandom.urlsafe_base64(32))
      Reply.redirect("#{request.base_url}#{target}", session.headers(request))
    end

    def form(session, alert, login)
      notice = alert ? %(<div class="flash-alert" role="alert">#{CGI.escapeHTML(alert)}</div>\n) : ''
      <<~HTML
        <h1>Not GitLab</h1>
        <p>A stand-in for the GitLab Linux package, made for the lab of pyinfra-gitlab.</p>
        #{notice}<form action="/users/sign_in" method="post" id="new_user">
        #{Reply.hidden('authenticity_token' => session.csrf)}
        <label>Username or primary email <input type="text" name="user[login]" value="#{CGI.escapeHTML(login.to_s)}"></label>
        <label>Password <input type="password" name="user[password]"></label>
        <button type="submit">Sign in</button>
        </form>
      HTML
    end
  end
end
