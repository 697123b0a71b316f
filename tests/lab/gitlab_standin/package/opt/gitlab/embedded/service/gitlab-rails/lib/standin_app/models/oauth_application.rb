# frozen_string_literal: true

require 'digest'
require 'openssl'
require 'securerandom'
require 'uri'
require_relative 'record'
require_relative 'scopes'

module Authn
  # STAND-IN for app/models/authn/oauth_application.rb and, below it, Doorkeeper::Application (doorkeeper,
  # lib/doorkeeper/orm/active_record/mixins/application.rb and lib/doorkeeper/models/application_mixin.rb).
  class OauthApplication < StandinApp::Record
    # activerecord.attributes in Doorkeeper's config/locales/en.yml; the other names are Rails' own.
    HUMAN_NAMES = { redirect_uri: 'Redirect URI' }.freeze
    # GitLab: config/initializers/doorkeeper.rb
    FORBIDDEN_SCHEMES = %w[data vbscript javascript].freeze

    columns_of 'oauth_applications', name: nil, uid: nil, secret: nil, redirect_uri: nil, scopes: '', confidential: true,
                                     trusted: false, owner_id: nil, owner_type: nil

    # nil unless both fit. A public application needs no secret, but a wrong one is refused.
    def self.by_uid_and_secret(uid, secret)
      application = find_by(uid: uid.to_s)
      return if application.nil?
      return application if secret.to_s.empty? && !application.confidential

      application if application.secret_matches?(secret)
    end

    # GitLab: lib/gitlab/doorkeeper_secret_storing/sha512_hash.rb
    def self.digest(text)
      Digest::SHA512.hexdigest(text.to_s)
    end

    # The fallback strategies (GitLab: Doorkeeper::Concerns::TokenFallback) end with the plain text: a secret that somebody
    # has assigned by `secret = ...` works as well.
    def secret_matches?(text)
      return false if text.nil? || secret.nil?

      OpenSSL.secure_compare(self.class.digest(text), secret) || OpenSSL.secure_compare(text.to_s, secret)
    end

    # Only in the object that has made the secret.
    def plaintext_secret
      @raw_secret
    end

    # Does not save; returns what will be stored. GitLab: lib/gitlab/doorkeeper_secret_storing/token/unique_application_token.rb
    def renew_secret
      @raw_secret = "gloas-#{SecureRandom.hex(32)}"
      self.secret = self.class.digest(@raw_secret)
    end

    def scopes
      Doorkeeper::OAuth::Scopes.from_string(@attributes['scopes'])
    end

    def scopes=(words)
      @attributes['scopes'] = (words.is_a?(String) ? words.split : words.to_a).map(&:to_s).uniq.join(' ')
    end

    def redirect_uri=(uris)
      @attributes['redirect_uri'] = uris.is_a?(Array) ? uris.join("\n") : uris
    end

    def confidential?
      confidential
    end

    def trusted?
      trusted
    end

    # Codes and tokens go with their application (dependent: :delete_all).
    def destroy
      StandinApp::State.transaction do |data|
        %w[oauth_access_grants oauth_access_tokens].each { |name| data[name].reject! { |row| row['application_id'] == id } }
        super
      end
    end
    alias destroy! destroy

    private

    def before_create
      self.uid = SecureRandom.hex(32) if uid.blank?
      renew_secret if secret.blank?
    end

    def validate
      errors.add(:name, "can't be blank") if name.blank?
      errors.add(:uid, 'has already been taken') if self.class.where(uid: uid).any? { |other| other.id != id }
      validate_redirect_uri
      return if scopes.empty? || scopes.valid_within?(Gitlab::Auth::APPLICATION_SCOPES)

      errors.add(:scopes, "doesn't match configured on the server.")
    end

    # doorkeeper, app/validators/doorkeeper/redirect_uri_validator.rb; GitLab does not insist on https.
    def validate_redirect_uri
      return errors.add(:redirect_uri, "can't be blank") if redirect_uri.blank?

      redirect_uri.split.each do |text|
        uri = URI.parse(text)
        errors.add(:redirect_uri, 'is forbidden by the server.') if FORBIDDEN_SCHEMES.include?(uri.scheme.to_s.downcase)
        errors.add(:redirect_uri, 'cannot contain a fragment.') unless uri.fragment.nil?
        errors.add(:redirect_uri, 'must specify a scheme.') if uri.opaque && uri.scheme == 'localhost'
        errors.add(:redirect_uri, 'must be an absolute URI.') if uri.scheme.nil?
        errors.add(:redirect_uri, 'must be a valid URI.') if uri.is_a?(URI::HTTP) && uri.host.to_s.empty?
      end
    rescue URI::InvalidURIError
      errors.add(:redirect_uri, 'must be a valid URI.')
    end
  end
end

module Doorkeeper
  # In GitLab the class that Authn::OauthApplication is made from, on the same table.
  Application = Authn::OauthApplication
end
