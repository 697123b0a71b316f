# frozen_string_literal: true

require_relative 'api_guard'

module StandinApp
  # GET /user, /users, /users/:id. GitLab: lib/api/users.rb and lib/api/entities/user*.rb.
  class UsersApi
    SCOPES = %w[read_user api read_api].freeze

    def initialize(gitlab_url)
      @gitlab_url = gitlab_url
    end

    def current(guard)
      user = guard.user!(SCOPES)
      Reply.json(200, user.admin? ? with_admin(user) : public_fields(user))
    end

    def index(guard, request)
      caller = guard.user!(SCOPES)
      users = User.all.select { |user| wanted?(user, request) }.sort_by { |user| -user.id }
      Pages.new(request).reply(users) { |user| caller.admin? ? with_admin(user) : basic(user) }
    end

    def show(guard, id)
      caller = guard.user!(SCOPES)
      user = User.find_by(id: id)
      return Reply.json(404, { message: '404 User Not Found' }) unless user

      Reply.json(200, caller.admin? ? with_admin(user) : basic(user).merge(profile(user)))
    end

    private

    # username: the whole name; search: a part of the name or user name, or the whole address.
    def wanted?(user, request)
      name, text = %w[username search].map { |key| request[key]&.downcase }
      return false if name && user.username.downcase != name

      text.nil? || user.email.downcase == text || [user.username, user.name].any? { |value| value.downcase.include?(text) }
    end

    def basic(user)
      { id: user.id, username: user.username, public_email: '', name: user.name, state: user.state, locked: false,
        avatar_url: nil, web_url: "#{@gitlab_url}/#{user.username}" }
    end

    def profile(user)
      { created_at: user.created_at, bio: '', location: '', linkedin: '', twitter: '', discord: '', website_url: '', github: '',
        job_title: '', pronouns: nil, organization: '', bot: false, work_information: nil, local_time: nil, followers: 0,
        following: 0, is_followed: false }
    end

    def public_fields(user)
      basic(user).merge(profile(user)).merge(
        last_sign_in_at: nil, confirmed_at: user.created_at, last_activity_on: nil, email: user.email, theme_id: 3,
        color_scheme_id: 1, projects_limit: 100_000, current_sign_in_at: nil, identities: [], can_create_group: true,
        can_create_project: true, two_factor_enabled: false, external: false, private_profile: false, commit_email: user.email
      )
    end

    def with_admin(user)
      public_fields(user).merge(is_admin: user.admin?, note: nil, namespace_id: user.id, created_by: nil)
    end
  end

  # Kaminari's pages with the headers that python-gitlab follows. GitLab: lib/gitlab/pagination/offset_header_builder.rb.
  class Pages
    def initialize(request)
      @request = request
      @page = [request['page'].to_i, 1].max
      per_page = request['per_page'].to_i
      @per_page = per_page.positive? ? [per_page, 100].min : 20
    end

    def reply(records, &block)
      pages = [(records.size / @per_page.to_f).ceil, 1].max
      rows = records.each_slice(@per_page).to_a[@page - 1] || []
      Reply.json(200, rows.map(&block), headers(records.size, pages))
    end

    private

    def headers(total, pages)
      following = @page + 1 if @page < pages
      preceding = @page - 1 if @page > 1
      links = { 'prev' => preceding, 'next' => following, 'first' => 1, 'last' => pages }.compact
      { 'x-total' => total, 'x-total-pages' => pages, 'x-per-page' => @per_page, 'x-page' => @page, 'x-next-page' => following,
        'x-prev-page' => preceding }.transform_values(&:to_s)
                                    .merge('link' => links.map { |name, page| %(<#{url(page)}>; rel="#{name}") }.join(', '))
    end

    def url(page)
      others = @request.params.reject { |name, _| %w[page per_page private_token].include?(name) }
      "#{@request.base_url}#{@request.path}?#{URI.encode_www_form(others.merge('page' => page, 'per_page' => @per_page))}"
    end
  end
end
