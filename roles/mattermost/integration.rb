# Gives a project's integration "Mattermost slash commands" its token; for `gitlab-rails runner -`.
# `wanted` (a Hash) is put before this text. Prints one line of JSON after a mark, because runner prints more.
require 'json'

project = Project.find_by_full_path(wanted['project'])
if project
  integration = project.find_or_initialize_integration('mattermost_slash_commands')
  integration.assign_attributes(active: true, token: wanted['token'])
  integration.save!
end
puts "pyinfra-gitlab:#{JSON.generate('found' => !project.nil?)}"
