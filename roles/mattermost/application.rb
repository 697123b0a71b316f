# Finds, makes or repairs the OAuth application of Mattermost in GitLab; for `gitlab-rails runner -`.
# `wanted` (a Hash) is put before this text. Prints one line of JSON after a mark, because runner prints more.
require 'json'

applications =
  begin
    Authn::OauthApplication # since 17.10
  rescue NameError
    Doorkeeper::Application
  end

found = applications.where(name: wanted['name'], owner_id: nil).to_a
attributes = wanted.slice('redirect_uri', 'scopes', 'confidential', 'trusted')
answer = { 'count' => found.length }
application = found.find { |one| one.uid == wanted['uid'] } || found.first

if application
  answer['uid'] = application.uid
  answer['differs'] = attributes.reject do |key, value|
    is = application.public_send(key)
    # Both are kept as text and read as lists of words.
    value.is_a?(String) ? is.to_s.split.sort == value.split.sort : is == value
  end.keys
  answer['secret_fits'] = application.uid == wanted['uid'] && application.secret_matches?(wanted['secret'].to_s)
end

if wanted['repair']
  if application.nil?
    application = applications.new(attributes.merge('name' => wanted['name']))
    application.save!
    answer.update('uid' => application.uid, 'secret' => application.plaintext_secret, 'made' => true)
  else
    application.update!(attributes) if answer['differs'].any?
    unless answer['secret_fits']
      application.renew_secret
      application.save!
      answer['secret'] = application.plaintext_secret
    end
  end
end
puts "pyinfra-gitlab:#{JSON.generate(answer)}"
