# frozen_string_literal: true

require 'ipaddr'
require 'time'
require_relative 'mail_room_api'
require_relative 'web/api'
require_relative 'web/authorizations'
require_relative 'web/sessions'
require_relative 'web/tokens'

module StandinApp
  # The Rack application. One JSON line per request goes to standard output, i.e. /var/log/gitlab/puma/current.
  class App
    PUBLIC = "#{Gitlab::MailRoom::ROOT}/public"
    MAIL_ROOM = %r{\A/api/v4/internal/mail_room/(.+)\z}
    JSON_TYPE = { 'content-type' => 'application/json' }.freeze
    TEXT = { 'content-type' => 'text/plain; charset=utf-8' }.freeze
    HTML = { 'content-type' => 'text/html; charset=utf-8' }.freeze
    PAGE = '<!DOCTYPE html><title>GitLab stand-in</title><h1>Not GitLab</h1>' \
           '<p>A stand-in for the GitLab Linux package, made for the lab of pyinfra-gitlab.</p>'

    def initialize(api: MailRoomApi.new)
      @api = api
      monitoring = Gitlab::MailRoom.gitlab_yml.fetch('monitoring', {})
      @api_v4 = Api.new(Gitlab::MailRoom.gitlab_yml.dig('gitlab', 'url'), File.read("#{Gitlab::MailRoom::ROOT}/VERSION").strip)
      @allowed = monitoring.fetch('ip_whitelist', []).map { |network| IPAddr.new(network) }
    end

    def call(env)
      started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      status, headers, body = route(env)
      log(env, status, started)
      [status, { 'date' => Time.now.httpdate, **headers }, [body]] # nginx says it in front of the real puma
    end

    private

    def route(env)
      path = env['PATH_INFO']
      if (match = MAIL_ROOM.match(path)) then mail_room(env, match[1])
      elsif path.start_with?('/-/') then monitoring(env, path)
      else static(env, path) || web(Request.new(env)) || [404, HTML, PAGE]
      end
    end

    # GitLab Workhorse serves what is in `public` as it is (workhorse/internal/upstream/routes.go, defaultUpstream).
    def static(env, path)
      file = File.expand_path("#{PUBLIC}#{path}")
      return unless env['REQUEST_METHOD'] == 'GET' && file.start_with?("#{PUBLIC}/") && File.file?(file)

      [200, TEXT, File.read(file)]
    end

    # Devise's, Doorkeeper's and the API's routes; nil for all others.
    def web(request)
      case [request.method, request.path]
      when %w[GET /] then Sessions.new.home(request)
      when %w[GET /users/sign_in] then Sessions.new.show(request)
      when %w[POST /users/sign_in] then Sessions.new.create(request)
      when %w[POST /users/sign_out] then Sessions.new.destroy(request)
      when %w[POST /oauth/token] then Tokens.new.create(request)
      else
        return Authorizations.new.call(request) if request.path == '/oauth/authorize'

        @api_v4.call(request) if request.path.start_with?('/api/')
      end
    end

    def mail_room(env, type)
      return [405, JSON_TYPE.merge('allow' => 'OPTIONS, POST'), '{"error":"405 Not Allowed"}'] if env['REQUEST_METHOD'] != 'POST'

      status, body = @api.post(type, env['HTTP_GITLAB_MAILROOM_API_REQUEST'], env['rack.input'].read)
      [status, JSON_TYPE, body.to_json]
    end

    # Only for addresses in gitlab_rails['monitoring_whitelist'], which are the node itself unless it says
    # more: everyone else (a load balancer!) gets 404.
    def monitoring(env, path)
      return [404, HTML, PAGE] unless @allowed.any? { |network| network.include?(IPAddr.new(env['REMOTE_ADDR'])) }

      case path
      when '/-/health' then [200, TEXT, 'GitLab OK']
      when '/-/liveness' then [200, JSON_TYPE, '{"status":"ok"}']
      when '/-/readiness' then [200, JSON_TYPE, '{"status":"ok","master_check":[{"status":"ok"}]}']
      else [404, HTML, PAGE]
      end
    end

    def log(env, status, started)
      seconds = Process.clock_gettime(Process::CLOCK_MONOTONIC) - started
      $stdout.puts({ time: Time.now.utc.iso8601(3), severity: 'INFO', method: env['REQUEST_METHOD'],
                     path: env['PATH_INFO'], status: status, duration_s: seconds.round(5),
                     remote_ip: env['REMOTE_ADDR'], ua: env['HTTP_USER_AGENT'] }.to_json)
    end
  end
end
