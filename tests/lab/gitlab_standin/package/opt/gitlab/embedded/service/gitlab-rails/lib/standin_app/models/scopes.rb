# frozen_string_literal: true

module Gitlab
  # lib/gitlab/auth.rb: the scopes of a Linux package whose registry is off, without the ones of features that are not here.
  module Auth
    DEFAULT_SCOPES = %w[api].freeze
    ALL_SCOPES = %w[
      api read_api read_user create_runner manage_runner k8s_proxy self_rotate read_repository write_repository
      read_observability write_observability ai_features sudo admin_mode read_service_ping openid profile email
    ].freeze
    # Neither personal tokens nor applications have all of them.
    TOKEN_SCOPES = (ALL_SCOPES - %w[openid profile email]).freeze
    APPLICATION_SCOPES = (ALL_SCOPES - %w[manage_runner self_rotate read_service_ping admin_mode]).freeze
  end
end

module Doorkeeper
  module OAuth
    # A set of words, as Doorkeeper's class of this name (doorkeeper, lib/doorkeeper/oauth/scopes.rb).
    class Scopes
      include Enumerable

      def self.from_string(text)
        new(text.to_s.split)
      end

      def initialize(words)
        @words = words.map(&:to_s).uniq
      end

      def each(&block)
        @words.each(&block)
      end

      def to_s
        @words.join(' ')
      end

      def empty?
        @words.empty?
      end

      # There is at least one, and all of them are allowed (lib/doorkeeper/oauth/helpers/scope_checker.rb): no scope at all is
      # not a valid one.
      def valid_within?(allowed)
        @words.any? && (@words - allowed.to_a).empty?
      end
    end
  end
end
