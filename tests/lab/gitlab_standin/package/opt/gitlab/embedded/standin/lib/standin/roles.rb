# frozen_string_literal: true

module Standin
  # Which roles exist and what they switch on (facts/gitlab-mail.md, "Roles": proven per role).
  # Only the services that the stand-in has are named.
  module Roles
    Role = Struct.new(:rails, :services)

    TABLE = {
      'application' => Role.new(true, %w[puma]),
      'sidekiq' => Role.new(true, []),
      'postgres' => Role.new(true, []),
      'patroni' => Role.new(true, []),
      'redis_sentinel' => Role.new(false, []),
      'redis_master' => Role.new(false, []),
      'redis_replica' => Role.new(false, []),
      'geo_primary' => nil, # these two manage no services: the default role stays on
      'geo_secondary' => nil,
      'monitoring' => Role.new(false, []),
      'pgbouncer' => Role.new(false, []),
      'consul' => Role.new(false, []),
      'pages' => Role.new(false, []),
      'gitaly' => Role.new(false, %w[gitaly]),
      'spamcheck' => Role.new(false, []),
      'backup' => Role.new(false, [])
    }.freeze
    DEFAULT = Role.new(true, %w[puma gitaly]).freeze
    NINETEEN = Gem::Version.new('19')

    module_function

    def names(version)
      TABLE.keys - [version < NINETEEN ? 'backup' : 'spamcheck']
    end

    # Turns the `roles` setting into <name>_role['enable'] and then into what is on.
    # Returns a Role; raises RuntimeError with the real message for an invalid name.
    def load(config, version)
      valid = names(version).map { |name| "#{name}_role" }
      if config['roles']
        active = [config['roles']].flatten.map { |name| name.to_s.tr('-', '_') }
        invalid = active - valid
        raise "The following invalid roles have been set in 'roles': #{invalid.join(', ')}" unless invalid.empty?

        active.each { |name| config[name]['enable'] = true }
      end
      combine(valid.select { |name| config[name]['enable'] }.map { |name| TABLE.fetch(name.delete_suffix('_role')) })
    end

    def combine(roles)
      roles = roles.compact
      return DEFAULT if roles.empty?

      Role.new(roles.any?(&:rails), roles.flat_map(&:services).uniq)
    end
  end
end
