# frozen_string_literal: true

require 'cgi'
require 'json'
require 'uri'

module StandinApp
  # One request: parameters of query, form and JSON body in one hash, as Rails has them. (Debian's puma comes without the rack
  # gem, so this is done by hand.)
  class Request
    attr_reader :env

    def initialize(env)
      @env = env
    end

    def path
      @env['PATH_INFO']
    end

    def full_path
      query = @env['QUERY_STRING'].to_s
      query.empty? ? path : "#{path}?#{query}"
    end

    # HEAD is a GET whose body puma leaves out. Rails' method override: a form's _method counts, for POST only.
    def method
      @method ||= case @env['REQUEST_METHOD']
                  when 'HEAD' then 'GET'
                  when 'POST' then self['_method']&.upcase || 'POST'
                  else @env['REQUEST_METHOD']
                  end
    end

    # user[login]=x is 'user[login]', not a nested hash.
    def params
      @params ||= form(@env['QUERY_STRING'].to_s).merge(body)
    end

    def [](name)
      value = params[name]
      value.nil? || value == '' ? nil : value
    end

    def header(name)
      @env["HTTP_#{name.upcase.tr('-', '_')}"]
    end

    def cookie(name)
      header('Cookie').to_s.split(/;\s*/).filter_map { |pair| pair.delete_prefix("#{name}=") if pair.start_with?("#{name}=") }.first
    end

    def https?
      @env['rack.url_scheme'] == 'https' || header('X-Forwarded-Proto') == 'https'
    end

    # As the browser (or the load balancer) has addressed us; Rails makes its redirects from this too.
    def base_url
      "#{https? ? 'https' : 'http'}://#{header('Host')}"
    end

    def bearer_token
      header('Authorization').to_s[/\ABearer\s+(.+)\z/i, 1]
    end

    # [user, password], or nil
    def basic_credentials
      encoded = header('Authorization').to_s[/\ABasic\s+(.+)\z/i, 1]
      encoded&.unpack1('m')&.split(':', 2)
    end

    private

    def body
      text = @env['rack.input']&.read.to_s
      type = @env['CONTENT_TYPE'].to_s
      return form(text) if type.start_with?('application/x-www-form-urlencoded')
      return {} unless type.start_with?('application/json') && !text.strip.empty?

      parsed = JSON.parse(text)
      parsed.is_a?(Hash) ? parsed : {}
    rescue JSON::ParserError
      {}
    end

    def form(text)
      URI.decode_www_form(text).to_h
    rescue ArgumentError
      {}
    end
  end

  # Pages and JSON as Rack's triples (with the body as one string; App makes the array).
  module Reply
    HTML = { 'content-type' => 'text/html; charset=utf-8' }.freeze
    JSON_TYPE = { 'content-type' => 'application/json' }.freeze

    module_function

    def json(status, body, headers = {})
      [status, JSON_TYPE.merge(headers), body.to_json]
    end

    def page(status, title, html, headers = {})
      [status, HTML.merge('cache-control' => 'max-age=0, private, must-revalidate').merge(headers),
       "<!DOCTYPE html>\n<title>#{CGI.escapeHTML(title)} · GitLab stand-in</title>\n#{html}\n"]
    end

    def redirect(location, headers = {})
      [302, HTML.merge('location' => location).merge(headers),
       %(<html><body>You are being <a href="#{CGI.escapeHTML(location)}">redirected</a>.</body></html>)]
    end

    def hidden(fields)
      fields.map do |name, value|
        %(<input type="hidden" name="#{CGI.escapeHTML(name.to_s)}" value="#{CGI.escapeHTML(value.to_s)}">)
      end.join("\n")
    end
  end
end
