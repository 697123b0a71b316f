# frozen_string_literal: true

module Standin
  # Settings that a version no longer has. The only one that matters to the lab is Mattermost, which left the
  # package with 19.0.0; how strictly that is checked changed between patch releases (facts/peers.md, section 2).
  module Deprecations
    NOTE = 'Bundled Mattermost was removed from the Linux package. Move it to its own server before upgrading.'

    module_function

    # installed: whose code is checking; target: the version checked for (often the same).
    # attributes: the "normal" hash of the node. Returns messages; none = fine.
    def removed(installed, target, attributes)
      return [] if target < Roles::NINETEEN
      return [] unless knows?(installed)

      mattermost = attributes['mattermost'] || {}
      hit = strict?(installed) ? !mattermost.empty? : mattermost['enable'] == true
      return [] unless hit

      key = strict?(installed) ? 'mattermost' : "mattermost['enable']"
      ["* #{key} has been deprecated since 18.11 and was removed in 19.0. #{NOTE}"]
    end

    def knows?(installed)
      installed >= Gem::Version.new('18.11.7')
    end

    def strict?(installed)
      installed == Gem::Version.new('18.11.7') ||
        (installed >= Roles::NINETEEN && installed <= Gem::Version.new('19.2.4'))
    end
  end
end
