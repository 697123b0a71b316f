# frozen_string_literal: true

require 'base64'
require 'digest'
require 'openssl'
require 'securerandom'
require_relative 'record'
require_relative 'scopes'

# STAND-IN for app/models/user.rb. The password lies in the state as it is: it is the lab's and no secret.
class User < StandinApp::Record
  # GitLab: config/locales/devise.en.yml and app/models/user.rb
  BLOCKED_MESSAGE = 'Your account has been blocked. Please contact your GitLab administrator if you think this is an error.'

  columns_of 'users', username: nil, name: nil, email: nil, password: nil, admin: false, state: 'active'

  # By user name or address, without regard to case.
  def self.find_by_login(login)
    login = login.to_s.downcase
    all.find { |user| [user.username.downcase, user.email.downcase].include?(login) }
  end

  def valid_password?(text)
    OpenSSL.secure_compare(password, text.to_s)
  end

  def admin?
    admin ? true : false
  end

  def active?
    state == 'active'
  end

  def blocked?
    state == 'blocked'
  end

  def block
    update(state: 'blocked')
  end

  def activate
    update(state: 'active')
  end

  def personal_access_tokens
    TokensOfUser.new(PersonalAccessToken, user_id: id)
  end

  # A relation that can also make new ones.
  class TokensOfUser < StandinApp::Relation
    %i[new create create!].each do |name|
      define_method(name) { |**attributes| PersonalAccessToken.public_send(name, user_id: @conditions[:user_id], **attributes) }
    end
    alias build new
  end
end

# STAND-IN for app/models/personal_access_token.rb: the validations, and that only a digest is stored.
class PersonalAccessToken < StandinApp::Record
  MAX_LIFETIME_IN_DAYS = 365

  columns_of 'personal_access_tokens', user_id: nil, name: nil, scopes: [], expires_at: nil, revoked: false, token_digest: nil
  attr_reader :token

  def self.find_by_token(text)
    find_by(token_digest: Digest::SHA256.base64digest(text.to_s))
  end

  # Kept readable in this object only.
  def set_token(text)
    @token = text
    self.token_digest = Digest::SHA256.base64digest(text)
  end

  def scopes=(words)
    @attributes['scopes'] = Array(words).map(&:to_s)
  end

  def expires_at
    @attributes['expires_at'] && Date.parse(@attributes['expires_at'])
  end

  def expires_at=(value)
    @attributes['expires_at'] = value.is_a?(String) || value.nil? ? value.presence : value.to_date.iso8601
  end

  def user
    User.find_by(id: user_id)
  end

  # From midnight UTC of that day on.
  def expired?
    !expires_at.nil? && expires_at <= Time.now.utc.to_date
  end

  def revoked?
    revoked
  end

  def active?
    !revoked? && !expired?
  end

  def revoke!
    update!(revoked: true)
  end

  private

  def before_create
    set_token("glpat-#{SecureRandom.urlsafe_base64(15)}") unless token_digest
  end

  def validate
    errors.add(:name, "can't be blank") if name.blank?
    errors.add(:scopes, "can't be blank") if scopes.empty?
    errors.add(:scopes, 'can only contain available scopes') unless (scopes - Gitlab::Auth::TOKEN_SCOPES).empty?
    validate_expiry if new_record?
  end

  def validate_expiry
    last = Time.now.utc.to_date + MAX_LIFETIME_IN_DAYS
    return errors.add(:expires_at, "can't be blank") if expires_at.nil?

    errors.add(:expires_at, "must be before #{last.iso8601}") if expires_at > last
  end
end
