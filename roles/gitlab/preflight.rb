# What speaks against an upgrade of this node: prints one JSON object. No value of any setting is in it.
#
# usage: ruby preflight.rb VERSION [migrations]
#
# check-config reads what the last reconfigure left behind, and ends with 0 when there is nothing to read. What is left of a
# bundled Mattermost is looked up by ourselves, because releases of GitLab differ in what they make of it. "migrations" also
# asks the database for batched background migrations that are not through (status 3 and 6: finished, finalized).
require 'json'
require 'open3'

said, status = Open3.capture2e('gitlab-ctl', 'check-config', "--version=#{ARGV[0]}")
answer = { check: { rc: status.exitstatus, said: said.lines.map(&:strip).reject(&:empty?).last(8) } }
node = Dir['/opt/gitlab/embedded/nodes/*.json'].map { |file| JSON.parse(File.read(file)) }.last || {}
secrets = JSON.parse(File.read('/etc/gitlab/gitlab-secrets.json')) rescue {}
known = node['normal'].is_a?(Hash) ? node['normal'] : {}
left = known['mattermost'].is_a?(Hash) ? known['mattermost'] : {}
answer[:node] = !known.empty?
answer[:mattermost] = {
  used: left['enable'] == true || !known['mattermost_external_url'].to_s.empty? || !known.dig('gitlab', 'mattermost_external_url').to_s.empty?,
  left: !left.empty? || !(secrets['mattermost'] || {}).compact.empty?
}
if ARGV[1]
  question = "SELECT job_class_name || ' on ' || table_name FROM batched_background_migrations WHERE status NOT IN (3, 6)"
  code = "puts [ApplicationRecord, Ci::ApplicationRecord].map(&:connection).uniq.flat_map { |one| one.select_values(%q(#{question})) }.uniq"
  out, error, status = Open3.capture3('gitlab-rails', 'runner', code)
  answer[:migrations] = status.success? ? { left: out.lines.map(&:strip).reject(&:empty?) } : { error: error.lines.last.to_s.strip }
end
answer[:free] = `df -Pk /opt/gitlab /var/cache/apt`.lines.drop(1).map { |line| line.split[3].to_i }.min
puts JSON.generate(answer)
