# frozen_string_literal: true

module StandinApp
  # The second half of Record: what one row can do.
  class Record
    attr_reader :errors

    def initialize(attributes = {})
      @attributes = self.class.defaults.transform_keys(&:to_s)
      @stored = {}
      @errors = Errors.new(self.class::HUMAN_NAMES)
      assign_attributes(attributes)
    end

    def assign_attributes(attributes = {})
      attributes.each do |name, value|
        unless respond_to?(:"#{name}=")
          raise ActiveModel::UnknownAttributeError, "unknown attribute '#{name}' for #{self.class.name}."
        end

        public_send(:"#{name}=", value)
      end
    end

    def valid?
      @errors = Errors.new(self.class::HUMAN_NAMES)
      before_create if new_record?
      validate
      @errors.empty?
    end

    def save(validate: true)
      return false unless !validate || valid?

      State.transaction { |data| new_record? ? insert(data) : write(data) }
      @stored = @attributes.dup
      true
    end

    def save!
      save || raise(ActiveRecord::RecordInvalid, self)
    end

    def update(attributes = {})
      assign_attributes(attributes)
      save
    end

    def update!(attributes = {})
      assign_attributes(attributes)
      save!
    end

    def destroy
      State.transaction { |data| data[self.class.table].reject! { |row| row['id'] == id } }
      self
    end
    alias destroy! destroy

    def reload
      use(self.class.find(id).instance_variable_get(:@attributes))
      self
    end

    def new_record?
      id.nil?
    end

    def persisted?
      !new_record? && self.class.exists?(id: id)
    end

    def ==(other)
      other.class == self.class && !id.nil? && other.id == id
    end

    def inspect
      "#<#{self.class.name} id: #{id.inspect}>"
    end

    private

    def before_create; end

    def validate; end

    def use(row)
      @attributes = self.class.defaults.transform_keys(&:to_s).merge(row)
      @stored = @attributes.dup
      @errors = Errors.new(self.class::HUMAN_NAMES)
    end

    # Ids are never given out twice, as with a sequence.
    def insert(data)
      rows = data[self.class.table]
      last = [data['ids'][self.class.table].to_i, *rows.map { |row| row['id'] }].max
      data['ids'][self.class.table] = @attributes['id'] = last + 1
      @attributes['created_at'] ||= Time.now.utc.iso8601(3)
      rows << @attributes.dup
    end

    # Only what was changed here, as in ActiveRecord: what another node has changed meanwhile stays.
    def write(data)
      row = data[self.class.table].find { |each| each['id'] == id }
      row&.merge!(@attributes.reject { |name, value| @stored[name] == value })
    end
  end
end
