# frozen_string_literal: true

module Standin
  # The hash behind gitlab_rails[...], mailroom[...] and so on: 'key' and :key are
  # the same, and while gitlab.rb is being read an absent key springs into being as
  # an empty hash (so `mailroom['a']['b'] = 1` works, and so that even *reading*
  # mailroom['enable'] in gitlab.rb makes it non-nil, as in the real package).
  class Mash < Hash
    class << self
      # The real one does not nest: an inner from_file switches it off for the rest
      # of the outer file too.
      def auto_vivify
        @vivify = true
        yield
      ensure
        @vivify = false
      end

      def auto_vivify?
        @vivify || false
      end

      def from(value)
        case value
        when Mash then value
        when Hash then value.each_with_object(new) { |(key, inner), mash| mash[key] = inner }
        when Array then value.map { |inner| from(inner) }
        else value
        end
      end
    end

    def [](key)
      key = key.to_s if key.is_a?(Symbol)
      return super(key) if key?(key) || !Mash.auto_vivify?

      self[key] = Mash.new
      super(key)
    end

    def []=(key, value)
      super(key.is_a?(Symbol) ? key.to_s : key, Mash.from(value))
    end
    alias store []=

    def key?(key)
      super(key.is_a?(Symbol) ? key.to_s : key)
    end

    def fetch(key, *rest, &block)
      super(key.is_a?(Symbol) ? key.to_s : key, *rest, &block)
    end

    def merge!(other)
      other.each { |key, value| self[key] = value }
      self
    end

    # Keys without a value are not written into the node's attributes.
    def strip_nils
      each_with_object({}) do |(key, value), kept|
        next if value.nil?

        kept[key] = value.is_a?(Mash) ? value.strip_nils : value
      end
    end
  end
end
