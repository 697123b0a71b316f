# frozen_string_literal: true

require 'base64'
require 'digest'
require 'securerandom'
require_relative 'record'
require_relative 'user'
require_relative 'oauth_application'

# What codes and access tokens have in common: SHA512 of them is stored (GitLab: config/initializers/doorkeeper.rb,
# hash_token_secrets), they end by themselves, and they can be revoked.
module StandinApp
  module Expiring
    def expired?
      Time.now >= Time.parse(created_at) + expires_in
    end

    def revoked?
      !revoked_at.nil?
    end

    def accessible?
      !expired? && !revoked?
    end

    def revoke
      update!(revoked_at: Time.now.utc.iso8601(3))
    end

    def application
      Authn::OauthApplication.find_by(id: application_id)
    end

    def self.digest(text)
      Digest::SHA512.hexdigest(text.to_s)
    end
  end
end

# The authorization code. Table oauth_access_grants.
class OauthAccessGrant < StandinApp::Record
  include StandinApp::Expiring

  EXPIRES_IN = 600 # doorkeeper's default: ten minutes

  columns_of 'oauth_access_grants', token: nil, application_id: nil, resource_owner_id: nil, redirect_uri: nil, scopes: '',
                                    expires_in: EXPIRES_IN, revoked_at: nil, code_challenge: nil, code_challenge_method: nil

  # Returns the code itself, which is stored nowhere.
  def self.issue(**attributes)
    SecureRandom.hex(32).tap { |code| create!(token: StandinApp::Expiring.digest(code), **attributes) }
  end

  def self.by_token(text)
    find_by(token: StandinApp::Expiring.digest(text))
  end

  def uses_pkce?
    !code_challenge.to_s.empty?
  end

  # RFC 7636. A verifier without a challenge is refused too.
  def verified_by?(verifier)
    return true if !uses_pkce? && verifier.to_s.empty?
    return code_challenge == verifier.to_s if code_challenge_method == 'plain'

    code_challenge == Base64.urlsafe_encode64(Digest::SHA256.digest(verifier.to_s), padding: false)
  end
end

# Table oauth_access_tokens.
class OauthAccessToken < StandinApp::Record
  include StandinApp::Expiring

  EXPIRES_IN = 7200 # GitLab: config/initializers/doorkeeper.rb

  columns_of 'oauth_access_tokens', token: nil, refresh_token: nil, previous_refresh_token: nil, application_id: nil,
                                    resource_owner_id: nil, scopes: '', expires_in: EXPIRES_IN, revoked_at: nil
  attr_accessor :plaintext_token, :plaintext_refresh_token

  # The object that comes back knows both tokens in plain text; the stored row does not.
  def self.issue(**attributes)
    token, refresh = Array.new(2) { SecureRandom.hex(32) }
    digests = [token, refresh].map { |text| StandinApp::Expiring.digest(text) }
    create!(token: digests[0], refresh_token: digests[1], **attributes).tap do |made|
      made.plaintext_token = token
      made.plaintext_refresh_token = refresh
    end
  end

  def self.by_token(text)
    find_by(token: StandinApp::Expiring.digest(text))
  end

  def self.by_refresh_token(text)
    find_by(refresh_token: StandinApp::Expiring.digest(text))
  end

  def user
    User.find_by(id: resource_owner_id)
  end

  # The old pair of tokens stays good until the new one is used for the first time (GitLab: find_oauth_access_token in
  # lib/gitlab/auth/auth_finders.rb).
  def revoke_previous_refresh_token!
    return if previous_refresh_token.to_s.empty?

    previous = self.class.find_by(refresh_token: previous_refresh_token)
    previous.revoke if previous && !previous.revoked?
    update!(previous_refresh_token: '')
  end
end
