# frozen_string_literal: true

require 'date'
require 'time'

# The few words of Rails (ActiveSupport, ActiveRecord's errors) that code for `gitlab-rails runner` cannot do without. What is
# not here raises NoMethodError or NameError, in which such code differs from Rails; it is meant to be noticed.
module ActiveSupport
  # 2.days, 1.year: months and years as Rails adds them to a date.
  class Duration < Struct.new(:seconds, :months)
    def after(time)
      date = (time.to_date >> months)
      Time.utc(date.year, date.month, date.day, time.hour, time.min, time.sec) + seconds
    end

    def from_now
      after(Time.now.utc)
    end

    def ago
      Duration.new(-seconds, -months).from_now
    end

    # What Date and Time add (Date.today + 1.year).
    module Adding
      def +(other)
        return super unless other.is_a?(Duration)
        return other.after(self) if is_a?(Time)

        other.after(Time.utc(year, month, day)).to_date
      end
    end
  end
end

class Integer
  { second: 1, minute: 60, hour: 3600, day: 86_400, week: 604_800 }.each do |unit, seconds|
    define_method(unit) { ActiveSupport::Duration.new(self * seconds, 0) }
    alias_method :"#{unit}s", unit
  end
  { month: 1, year: 12 }.each do |unit, months|
    define_method(unit) { ActiveSupport::Duration.new(0, self * months) }
    alias_method :"#{unit}s", unit
  end
end

Date.prepend(ActiveSupport::Duration::Adding)
Time.prepend(ActiveSupport::Duration::Adding)

class Object
  def blank?
    return strip.empty? if is_a?(String)

    respond_to?(:empty?) ? empty? : !self
  end

  def present?
    !blank?
  end

  def presence
    self if present?
  end
end

module ActiveModel
  UnknownAttributeError = Class.new(NoMethodError)
end

module ActiveRecord
  ActiveRecordError = Class.new(StandardError)
  RecordNotFound = Class.new(ActiveRecordError)
  StatementInvalid = Class.new(ActiveRecordError)

  # "Validation failed: Redirect URI must be a valid URI."
  class RecordInvalid < ActiveRecordError
    attr_reader :record

    def initialize(record)
      @record = record
      super("Validation failed: #{record.errors.full_messages.join(', ')}")
    end
  end
end
