from hamux_zoo.show.app import make_app

make_app().launch()
