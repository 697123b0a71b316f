# frozen_string_literal: true

require_relative '../state'
require_relative 'active_support'

module StandinApp
  # What `where` gives: asked for its rows when they are needed.
  class Relation
    include Enumerable

    def initialize(model, conditions)
      @model = model
      @conditions = conditions
    end

    def each(&block)
      @model.rows(@conditions).each(&block)
      self
    end

    def where(**conditions)
      Relation.new(@model, @conditions.merge(conditions))
    end

    def find_by(**conditions)
      where(**conditions).first
    end

    def last
      to_a.last
    end

    def size
      to_a.size
    end
    alias length size

    def empty?
      to_a.empty?
    end

    def exists?
      !empty?
    end

    def pluck(*names)
      map { |record| names.one? ? record.public_send(names.first) : names.map { |name| record.public_send(name) } }
    end

    def destroy_all
      to_a.each(&:destroy)
    end
  end

  # Messages by attribute, and as ActiveModel puts them into words.
  class Errors
    attr_reader :messages

    def initialize(human)
      @human = human
      @messages = {}
    end

    def add(attribute, message)
      (@messages[attribute] ||= []) << message
    end

    def empty?
      @messages.empty?
    end

    def full_messages
      @messages.flat_map do |attribute, texts|
        name = @human.fetch(attribute) { attribute.to_s.tr('_', ' ').capitalize }
        texts.map { |text| "#{name} #{text}" }
      end
    end
  end

  # STAND-IN for ActiveRecord::Base: rows of one table of State, with as much of its interface as is needed here and by the
  # code that operators give to `gitlab-rails runner`.
  class Record
    HUMAN_NAMES = {}.freeze

    class << self
      attr_reader :table, :defaults

      def columns_of(table, **defaults)
        @table = table
        @defaults = { id: nil, created_at: nil, **defaults }
        @defaults.each_key do |name|
          define_method(name) { @attributes[name.to_s] } unless method_defined?(name)
          define_method(:"#{name}=") { |value| @attributes[name.to_s] = value } unless method_defined?(:"#{name}=")
          define_singleton_method(:"find_by_#{name}") { |value| find_by(name => value) }
        end
      end

      def where(**conditions)
        unknown = conditions.keys - @defaults.keys
        raise ActiveRecord::StatementInvalid, "column #{@table}.#{unknown.first} does not exist" unless unknown.empty?

        Relation.new(self, conditions)
      end

      def all
        where
      end

      def find_by(**conditions)
        where(**conditions).first
      end

      def find_by!(**conditions)
        find_by(**conditions) || raise(ActiveRecord::RecordNotFound, "Couldn't find #{name}")
      end

      def find(id)
        find_by(id: id.to_i) || raise(ActiveRecord::RecordNotFound, "Couldn't find #{name} with 'id'=#{id}")
      end

      def exists?(**conditions)
        where(**conditions).exists?
      end

      def first
        all.first
      end

      def last
        all.last
      end

      def count
        all.size
      end

      def create(attributes = {})
        new(attributes).tap(&:save)
      end

      def create!(attributes = {})
        new(attributes).tap(&:save!)
      end

      def rows(conditions)
        State.transaction do |data|
          data[@table].select { |row| matches?(row, conditions) }.sort_by { |row| row['id'] }.map { |row| load(row) }
        end
      end

      def load(row)
        allocate.tap { |record| record.send(:use, row) }
      end

      private

      def matches?(row, conditions)
        conditions.all? { |name, value| value.is_a?(Array) ? value.include?(row[name.to_s]) : row[name.to_s] == value }
      end
    end
  end
end

require_relative 'record_methods'
