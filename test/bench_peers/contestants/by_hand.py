"""The hand-written program: what the query costs without a database or a framework."""

import os

from .base import Contestant, Program

PROGRAM = os.path.join(os.path.dirname(__file__), 'by_hand')


class ByHand(Contestant):
    name = 'by_hand'
    title = 'program written by hand'

    def run(self, query):
        command = [PROGRAM, self.place.brokers, query.topic, query.name.split('_')[0],
                   self.place.path('by_hand.out')]
        with Program(self.place, command) as program:
            return program.measure(), None

    def fetch(self, query):
        self.place.create_result(query)
        with open(self.place.path('by_hand.out')) as file:
            self.place.copy_in('result', file)
        os.unlink(self.place.path('by_hand.out'))
